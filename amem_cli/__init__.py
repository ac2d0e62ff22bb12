"""Video-based person re-identification by Appearance and Motion Enhancement (AMEM, AAAI 2020).

In Python:

    import amem_cli as amem

    model = amem.load_main_model("workspace/amem/mars/amem-main.safetensors")
    f_s = amem.embed(model, clips)                                # (B, T, H, W, 3) uint8 -> (B, 512), L2-normalised
    features = amem.read_features("workspace/features/mars.h5")
    labels = amem.read_labels("workspace/labels/mars.h5")
    result = amem.evaluate(features, protocol="mars")             # result["rank"]["1"], result["mAP"], ...

`amem_cli.api` documents the five functions. torch and numpy are imported on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amem_cli.api import embed, evaluate, load_main_model, read_features, read_labels

__version__ = "0.1.0"
__all__ = ["__version__", "embed", "evaluate", "load_main_model", "read_features", "read_labels"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from amem_cli import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
