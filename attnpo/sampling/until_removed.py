"""What the changes to a model that decodes have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

from torch import nn
from transformers import GenerationMixin


class UntilRemoved(ABC):
    """A change to a model that holds until `remove` or, used as a context manager, until its end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()

    @abstractmethod
    def remove(self) -> None:
        """Leave the model as it was."""


def decoder_in(model: nn.Module) -> Any:
    """The module that decodes, inside any wrapper (PEFT, DDP): a wrapper's `generate` calls that one and never the
    wrapper. None where there is none."""
    return next((module for module in model.modules() if isinstance(module, GenerationMixin)), None)
