"""The report's predicted frames: true, predicted and copied ones, as strips and as a small animation."""

from html import escape

import numpy as np

from amem_cli.pictures.frames import PredictedClip, read_frames
from amem_cli.pictures.report.content import Missing, Predictions
from amem_cli.pictures.report.parts import THUMBNAIL, figure_text, html_table, missing_note, picture_address


def predictions_section(predictions: Predictions | Missing) -> str:
    if isinstance(predictions, Missing):
        return missing_note(predictions)
    errors = predictions.errors
    ratio = errors.get("mse_ratio")
    verdict = ""
    if ratio is not None:
        beats = "better than" if ratio < 1 else "worse than"
        verdict = (
            f"Over these clips the predicted frames are <strong>{beats} copying</strong> the last frame: their mean "
            f"squared error is {ratio:.2f} times as large. Only below 1 has anything been learned about motion."
        )
    rows = [
        f'<tr><th scope="row">{title}</th><td>{figure_text(errors["psnr" + key], 1)}</td>'
        f"<td>{figure_text(errors['ssim' + key], 3)}</td><td>{figure_text(errors['mse' + key], 4)}</td></tr>"
        for title, key in (("predicted frames", ""), ("copying the last frame", "_copied"))
    ]
    if errors.get("mse_other_motion") is not None:
        rows.append(
            '<tr><th scope="row">predicted from another clip\'s f_M</th><td></td><td></td>'
            f"<td>{figure_text(errors['mse_other_motion'], 4)}</td></tr>"
        )
    table = html_table("Errors against the true frames, means over the clips", ["", "PSNR, dB", "SSIM", "MSE"], rows)
    clips = "".join(_predicted_clip(clip, position) for position, clip in enumerate(predictions.clips))
    return (
        f"<p>MEM sees frame t and predicts the frames after it, one from another (paper, Figure 4). {verdict}</p>"
        f'{table}<p class="controls"><button type="button" id="play" hidden>Play</button></p>'
        f'<div class="clips">{clips}</div>'
    )


def _predicted_clip(clip: PredictedClip, position: int) -> str:
    rounds = len(clip.true)
    errors = clip.errors["rounds"]
    heads = ["", "t (given)", *(f"t+{step + 1}" for step in range(rounds))]
    given = frame_image(clip.current, "frame t")
    rows = [("true", clip.true, None), ("predicted", clip.predicted, ""),
            ("copied", np.broadcast_to(clip.current, clip.true.shape), "_copied")]  # fmt: skip
    body = []
    for name, frames, key in rows:
        cells = []
        for step, frame in enumerate(frames):
            note = ""
            if key is not None:
                found = errors[step]
                psnr = figure_text(found["psnr" + key], 1)
                note = (
                    f"<small>{psnr}{'' if psnr == 'exact' else ' dB'}</small>"
                    f"<small>SSIM {figure_text(found['ssim' + key], 2)}</small>"
                )
            cells.append(f"<td>{frame_image(frame, f'{name} frame t+{step + 1}')}{note}</td>")
        first = given if name == "true" else ""
        body.append(f'<tr data-row="{name}"><th scope="row">{name}</th><td>{first}</td>{"".join(cells)}</tr>')
    caption = "True, predicted and copied frames, with PSNR and SSIM"
    return (
        f'<article class="clip" aria-labelledby="clip-{position}"><h3 id="clip-{position}">{escape(clip.title)}</h3>'
        f'{html_table(caption, heads, body, "film", visible=False)}<div class="player" hidden></div></article>'
    )


def frame_image(frame: np.ndarray, alt: str) -> str:
    height, width = THUMBNAIL
    source = picture_address(read_frames([frame], THUMBNAIL), 1)
    return f'<img src="{source}" width="{width}" height="{height}" alt="{escape(alt)}">'
