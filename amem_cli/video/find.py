"""`amem find`: from videos to one page that says who is where and when."""

import contextlib
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from amem_cli.artifacts import atomic, features, pseudo_labels, results
from amem_cli.artifacts.features import Extraction
from amem_cli.artifacts.output import locked
from amem_cli.artifacts.paths import Workspace, is_generated
from amem_cli.data.manifest import load_manifest, protocol_of
from amem_cli.errors import AmemError, UsageError
from amem_cli.options import ExtractFeaturesOptions, LabelVideosOptions
from amem_cli.resolve import folder_flags
from amem_cli.runtime.progress import Progress
from amem_cli.video.gallery import Calibration, Gallery, read_calibration
from amem_cli.video.link import Linked, link_tracks, require_own, write_links
from amem_cli.video.options import FindOptions
from amem_cli.video.tracklets import cameras_of, cut_tracklets

CLIPS, FRAMES = 6, 16  # of a track, for its features and its attributes
PAGE = "index.html"


def find(options: FindOptions, progress: Progress) -> tuple[Path, Linked, list[str]]:
    """Cut people out of videos, compare them, give each a number, and write the page; finished steps are reused.
    Returns the page, the people, and lines on what was used."""
    out, home = options.out, Workspace(options.workspace)
    manifest = load_manifest(options.dataset)
    protocol = protocol_of(manifest)
    split = protocol.numbers[0]
    model, calibration = options.model or home.amem_main(manifest.name, split), options.calibration
    if calibration is None and options.threshold is None and model.is_file():
        calibration = calibration_of(model, home.features(manifest.name, split), home.results(protocol.name))
    train = f"amem train-arm --preset small --partition none{folder_flags(workspace=options.workspace)}, then "
    made = "" if home.arm.is_file() else f"; its training on PETA takes minutes: {train}"
    without = f"Give --model. Without labelled people an attribute recogniser will do{made or ': '}"
    remedy = "Check --model" if options.model else f"{without}--model {shlex.quote(str(home.arm))}"
    from amem_cli.models.checkpoints import load_arm, load_feature_model
    from amem_cli.pictures.html import require_page
    from amem_cli.runtime.distributed import choose_device
    from amem_cli.stages.extract_features import extract_features, require_rows

    _, config = load_feature_model(model, remedy=remedy)  # everything before the long part
    choose_device(options.device)
    require_own(out, (camera.name for camera in cameras_of(options)))
    how, known = _extraction(options, model, config.image_size, calibration, progress)
    require_rows(how.parts, config)
    arm = options.arm or home.arm
    if options.arm or arm.is_file():
        load_arm(arm, remedy="Check --arm" if options.arm else "Give another one with --arm")
    require_page(out / PAGE)
    cut = cut_tracklets(replace(options, out=out / "tracks"), progress)
    common: dict[str, Any] = {"dataset": str(cut.manifest), "workspace": out / "workspace"}
    common |= {"force": options.force, "device": options.device}
    labels = _labels(common, arm, options.arm is not None, progress)
    common |= asdict(how)
    (extracted,) = extract_features(ExtractFeaturesOptions(model=str(model), clips=CLIPS, **common), progress)
    gallery = Gallery([extracted.artifact])
    linked = link_tracks(gallery, known.threshold if known else options.threshold, known)
    used = [f"boxes: {cut.source}", f"model: {model.name} ({atomic.sha256_file(model)[:8]})"]
    used[1] += f", trained on {gallery.training}" if gallery.training else ""
    used += gallery.extracted_with
    if known:
        rate = f"{100 * known.false_match_rate:g} % of different people taken for one"
        used.append(f"calibration: {known.name}, at most {rate}")
    else:
        limit = f"up to a squared distance of {'' if options.threshold is not None else 'about '}{linked.threshold:.2g}"
        used.append(f"no calibration: one person {limit}, a guess")
        progress.warn(f"no calibration for {model}: tracks {limit} count as one person")
    if gallery.of_generated_people and not is_generated(cut.folder):
        progress.warn(f"{model} was trained on generated people: it does not know real ones")
    if labels:
        used.append(f"attributes: {arm.name}")
    from amem_cli.video.page import find_page

    with locked(out / PAGE):
        write_links(linked, out, (cut.folder,), progress)
        atomic.write_text(out / PAGE, find_page(linked, cut, labels, used))
    return out / PAGE, linked, used


def _extraction(
    options: FindOptions, model: Path, image_size: str, calibration: Path | None, progress: Progress
) -> tuple[Extraction, Calibration | None]:
    """How to extract the features, and the calibration if it is of features that were extracted so. Without
    `--adapt-cameras` and `--parts` the calibration says how. `image_size` is that of the model."""
    how = Extraction(options.adapt_cameras, options.parts)
    if calibration is None:
        return how, None
    known = read_calibration(calibration, atomic.sha256_file(model))
    if known.image_size not in ("", image_size):
        why = f"its features are of images of {known.image_size} pixels, those of the model of {image_size}"
        remedy = "Extract features without --image-size and run amem evaluate --calibrate again"
    elif how in (Extraction(), known.extraction):
        return known.extraction, known
    else:
        why = f"its features were extracted with {known.extraction}, not with {how}"
        remedy = "Leave --adapt-cameras and --parts out: they are as in the calibration"
    if options.calibration:
        raise UsageError("--calibration", calibration, why=why, remedy=remedy)
    progress.warn(f"{calibration} is not used: {why}")
    return how, None


def _labels(common: dict[str, Any], arm: Path, required: bool, progress: Progress) -> pseudo_labels.PseudoLabels | None:
    """The attributes of the tracks; None, with a line that says so, without an ARM."""
    if not arm.is_file() and not required:
        progress.log(f"no attributes: {arm} not found (amem train-arm makes it)")
        return None
    from amem_cli.stages.label_videos import label_videos

    result = label_videos(LabelVideosOptions(arm=str(arm), frames=FRAMES, **common), progress)
    return pseudo_labels.read(result.artifact)


def calibration_of(model: Path, table: Path, result: Path) -> Path | None:
    """The `result`, if it has a calibration of distances in the features file `table`, which this model made."""
    with contextlib.suppress(AmemError, KeyError, AttributeError):
        by_model = features.read(table, people=False).model("sha256") == atomic.sha256_file(model)
        read_calibration(result)
        made_from = results.read(result)["provenance"]["parents"].values()
        if by_model and atomic.sha256_file(table) in [one.get("sha256") for one in made_from]:
            return result
    return None
