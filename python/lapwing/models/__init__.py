"""The classes that `lapwing.load` returns, one for each shape of model."""

from .base import BaseModel
from .encoder import TextEncoder
from .generator import TextGenerator
from .options import GenerateOptions, SingleOptions
from .seq2seq import Seq2Seq

__all__ = ["BaseModel", "GenerateOptions", "Seq2Seq", "SingleOptions", "TextEncoder", "TextGenerator"]
