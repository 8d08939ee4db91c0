"""Tensors and weights as safetensors files, which hold data only: nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cuesta.errors import UserError


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` to one safetensors file; tied tensors are written once per name."""
    seen: set[int] = set()
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        tied = tensor.numel() > 0 and tensor.data_ptr() in seen
        plain[name] = tensor.clone() if tied else tensor
        seen.add(tensor.data_ptr())
    save_file(plain, path)
    path.chmod(0o644)  # safetensors keeps files from everybody else


def kept(tensors: Mapping[str, Tensor], *, copies: bool) -> dict[str, Tensor]:
    """Return tensors without their graphs; as `copies` in host memory, which no update reaches."""
    detached = {name: tensor.detach() for name, tensor in tensors.items()}
    return {name: each.to("cpu", copy=True) if copies else each for name, each in detached.items()}


def load_weights(path: Path, model: nn.Module, *, without: tuple[str, ...] = ()) -> None:
    """Put a safetensors file into `model`, but for names that begin with one of `without`.

    Raises `UserError` naming a tensor that does not fit.
    """
    tensors = _without(load_tensors(path), without)
    own = _without(model.state_dict(), without)
    for name in dict.fromkeys([*own, *tensors]):
        if name not in tensors or name not in own:
            where = "the model" if name in own else path
            raise UserError(f"{path} does not fit the model: only {where} has {name!r}")
        if own[name].shape != tensors[name].shape:
            shapes = (
                f"{list(tensors[name].shape)} in the file, {list(own[name].shape)} in the model"
            )
            raise UserError(
                f"{path} does not fit the model: {name!r} is {shapes}; was the data changed?"
            )
    model.load_state_dict(tensors, strict=not without)


def _without(tensors: Mapping[str, Tensor], beginnings: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: each for name, each in tensors.items() if not name.startswith(beginnings)}


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; raises `UserError` naming it when it cannot be read."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; has the run finished?") from None
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
