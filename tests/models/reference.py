"""The paper's network in TensorFlow's terms (mnist_challenge, model.py): slow, NumPy, float64.

Images are NHWC, kernels HWIO, dense weights input by output, and ReLU comes before pooling.
"""

import numpy as np
from torch import Tensor

from sparring.models import PaperCNN

Array = np.ndarray
CONVOLUTIONS, DENSE = ("conv1", "conv2"), ("fc1", "fc2")


def logits(network: PaperCNN, images: Tensor) -> Array:
    """What the original computes with this network's weights."""
    weights = {name: value.detach().double().numpy() for name, value in network.named_parameters()}
    # Output, input, height, width to height, width, input, output.
    kernel1, kernel2 = (weights[f"{name}.weight"].transpose(2, 3, 1, 0) for name in CONVOLUTIONS)
    dense1, dense2 = (weights[f"{name}.weight"].T for name in DENSE)
    x = images.detach().double().numpy().reshape(-1, 28, 28, 1)
    x = _max_pool(_relu(_convolution(x, kernel1) + weights["conv1.bias"]))
    x = _max_pool(_relu(_convolution(x, kernel2) + weights["conv2.bias"]))
    x = x.reshape(-1, 7 * 7 * 64)
    x = _relu(x @ dense1 + weights["fc1.bias"])
    return x @ dense2 + weights["fc2.bias"]


def _convolution(x: Array, kernel: Array) -> Array:
    """Stride 1, padding SAME: place (y, x) sums over the neighbours up to two away, 0 outside."""
    num, height, width, _ = x.shape
    size = kernel.shape[0]
    result = np.zeros((num, height, width, kernel.shape[3]))
    for row in range(height):
        for column in range(width):
            for i in range(size):
                for j in range(size):
                    y, z = row + i - size // 2, column + j - size // 2
                    if 0 <= y < height and 0 <= z < width:
                        result[:, row, column] += x[:, y, z] @ kernel[i, j]
    return result


def _max_pool(x: Array) -> Array:
    """Windows of 2 x 2, stride 2."""
    num, height, width, channels = x.shape
    return x.reshape(num, height // 2, 2, width // 2, 2, channels).max((2, 4))


def _relu(x: Array) -> Array:
    return np.maximum(x, 0)
