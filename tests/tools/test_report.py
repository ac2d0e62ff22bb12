"""What `amem report` says of parts that it cannot show."""

from pathlib import Path

import pytest
from writers import some_labels

from amem_cli.artifacts import pseudo_labels
from amem_cli.artifacts.paths import Workspace
from amem_cli.artifacts.provenance import Provenance
from amem_cli.data.tracklets import Tracklet
from amem_cli.errors import OutputExists, UsageError
from amem_cli.pictures.report import Missing
from amem_cli.runtime.progress import Silent
from amem_cli.tools.report import Collector, report
from amem_cli.tools.source import Source


def test_attributes_without_labels_and_with_others(tmp_path: Path) -> None:
    """Without a model of AEM they need labels of these tracklets; labels of others are replaced."""
    source = Source("mars", tmp_path, Workspace(tmp_path))
    tracklets = [Tracklet("none of the labels", 1, 1, "", ("a",))]

    def said() -> Missing:
        return Collector(source, Silent())._attributes(tracklets, Missing("no model", "amem train-amem"))  # type: ignore[return-value]

    why, command = said().why, said().command
    assert why == "No attributes: the pseudo-labels are missing"
    assert command.startswith("amem label-videos --dataset mars")
    assert command.endswith(" --subset all")
    pseudo_labels.write(source.workspace.labels("mars"), some_labels(), Provenance("label-videos", {}))
    assert said() == Missing("No attributes: the pseudo-labels do not cover these tracklets", f"{command} --force")


def test_report_replaces_only_pages_of_amem(tmp_path: Path) -> None:
    own = tmp_path / "report.html"
    own.write_text("<html>my own")
    source = Source("mars", tmp_path, Workspace(tmp_path))
    with pytest.raises(OutputExists, match="it exists and is not known to be a page of amem"):
        report(own, source, Silent(), queries=3, seed=0)
    with pytest.raises(UsageError, match=r"neither \.html nor \.htm"):
        report(tmp_path / "report.pdf", source, Silent(), queries=3, seed=0)
