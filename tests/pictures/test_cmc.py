"""CMC curves."""

import numpy as np
from matplotlib.colors import to_hex

from amem_cli.pictures.cmc import cmc_figure
from amem_cli.pictures.style import COLOURS, SOFT


def test_cmc_figure_curves_and_chance():
    curves = {"AMEM": np.linspace(0.6, 1, 60), "baseline": np.linspace(0.4, 0.9, 30)}
    (axes,) = cmc_figure(curves, np.linspace(0.1, 1, 60), "mars").axes
    labels = [(to_hex(step.get_edgecolor()), step.get_label()) for step in axes.patches]
    assert labels == [(COLOURS[0], "AMEM (60.0)"), (COLOURS[1], "baseline (40.0)"), (SOFT, "chance (10.0)")]
    values, edges, _ = axes.patches[0].get_data()
    np.testing.assert_allclose(values, 100 * curves["AMEM"][:50])
    assert edges[:2].tolist() == [0.5, 1.5]  # the step of rank 1 is centred on 1
    assert axes.get_xlim()[1] == 50.5


def test_cmc_figure_small_gallery():
    (axes,) = cmc_figure({"walkers": np.array([0.5, 1.0, 1.0])}).axes
    assert axes.get_xlim()[1] == 3.5
    assert all(tick == int(tick) for tick in axes.get_xticks())
