"""The tables of the paper that `amem reproduce` trains: their rows as options of `train-amem`. Needs no torch."""

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from amem_cli.options import PRESETS, data_root_option, option, workspace_option

SEEDS = 3  # trainings per row, with the seeds 0, 1, 2
PAPER_BACKBONES = ("r3d", "p3d", "i3d")  # in the order of Table 4


@dataclass(frozen=True)
class Row:
    """One row of a table: its folder `name`, the paper's `title`, the `options` of train-amem, and the name of the row
    that its figures are `compared_with`."""

    name: str
    title: str
    options: dict[str, Any]
    compared_with: str = "baseline"

    @property
    def backbone(self) -> str:
        return self.options.get("backbone", "i3d")

    def without(self, name: str, title: str, **options: Any) -> "Row":
        """This row without one term of the loss, compared with this row."""
        return Row(f"{self.name}-without-{name}", f"{self.title}, without {title}", self.options | options, self.name)

    def on_backbone(self, backbone: str, title: str) -> "Row":
        """This row on another backbone; on I3D it is the row itself with another title, which is trained once."""
        prefix = "" if backbone == "i3d" else f"{backbone}-"
        options = self.options | {"backbone": backbone}
        return Row(prefix + self.name, f"{backbone.upper()}, {title}", options, f"{prefix}baseline")


@dataclass(frozen=True)
class Table:
    """A table or figure of the paper; `scored` rows are evaluated, predicted frames are measured if `drawn`."""

    title: str
    rows: tuple[Row, ...]
    datasets: tuple[str, ...] = ("mars",)
    scored: bool = True
    drawn: bool = False
    notes: tuple[str, ...] = ()


BASELINE = Row("baseline", "Baseline (I3D)", {"modules": "baseline"})
AEM = Row("aem", "Baseline + AEM", {"modules": "aem"})
MEM = {c: Row(f"mem-c{c}", f"Baseline + MEM (c={c})", {"modules": "mem", "predict_frames": c}) for c in (1, 2, 3, 4)}
AFTER = Row("after-enhancement", "Baseline (After Enhancement)", {"modules": "after-enhancement", "predict_frames": 3})
AMEM = Row("amem", "Baseline + AEM + MEM (AMEM)", {"modules": "amem", "predict_frames": 3})
NO_TEXTURE: dict[str, Any] = {"name": "texture", "title": "texture MSE", "texture_loss": "none"}

TABLES = {
    "table3": Table("Table 3: ablation study on each module", (BASELINE, AEM, *MEM.values(), AFTER, AMEM)),
    "table4": Table(
        "Table 4: other backbones",
        tuple(
            row.on_backbone(backbone, title)
            for backbone in PAPER_BACKBONES
            for title, row in (("B", BASELINE), ("B+A", AEM), ("B+M", MEM[3]), ("AMEM", AMEM))
        ),
    ),
    "table5": Table("Table 5: the three data sets", (BASELINE, AMEM), datasets=("mars", "ilids-vid", "prid2011")),
    "losses": Table(
        "Different components in the loss function",
        (AMEM, AMEM.without("adversarial", "L_adv", adversarial_weight=0.0), AMEM.without(**NO_TEXTURE)),
        drawn=True,
        notes=("The paper prints no figures: accuracy hardly changes, generated images become much worse.",),
    ),
    "figure4": Table(
        "Figure 4: predicted frames",
        tuple(row for c in (1, 2, 3) for row in (MEM[c], MEM[c].without(**NO_TEXTURE))),
        scored=False,
        drawn=True,
        notes=(
            "The paper prints images only. The baseline is a copy of frame t: with an MSE ratio below 1 the model has "
            "learned motion.",
        ),
    ),
}


@dataclass(frozen=True)
class Request:
    """The options of `amem reproduce`; an empty tuple is all data sets or rows of the table."""

    what: str = option(MISSING, f"{' | '.join(TABLES)} | sizes; sizes needs no data", argument=True)
    datasets: tuple[str, ...] = option((), "data set or .toml; default mars, table5: all three", flag="--dataset")
    rows: tuple[str, ...] = option((), "only this row, e.g. amem; repeatable", flag="--row")
    seeds: int = option(SEEDS, "trainings per row, with the seeds 0, 1, ...")
    weights: tuple[str, ...] = option(
        (), "NAME=FILE, of arm, tae or a backbone; a file, or imagenet or kinetics; repeatable"
    )
    preset: str = option("", f"{' | '.join(PRESETS)}; empty: that of --config, else {PRESETS[0]}")
    config: Path | None = option(None, "TOML file as `amem config show` prints it")
    data_root: Path = data_root_option()
    workspace: Path = workspace_option()
