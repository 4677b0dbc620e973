"""What a run's network says of images, and whether that withstands an attack."""

from sparring.prediction.predict import Candidate, Prediction, Predictions, Unread, predict

__all__ = ["Candidate", "Prediction", "Predictions", "Unread", "predict"]
