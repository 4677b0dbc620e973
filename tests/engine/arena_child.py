"""What a spawned process does with an arena that it was handed."""

from multiprocessing.connection import Connection

from sparring.engine.memory import Arena


def double(arena: Arena, pipe: Connection) -> None:
    pipe.recv()
    arena["numbers"].mul_(2)
    pipe.send(arena["bytes"].tolist())
