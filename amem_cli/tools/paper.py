"""The figures that the paper prints, to stand beside ours: Tables 3, 4 and 5, and the section Model Size.

Rates are per cent, exactly as printed; None where the paper prints none. Imports nothing heavy.
"""

from typing import NamedTuple


class Printed(NamedTuple):
    """One row of a table for one data set: rank-1, rank-5, rank-20 and mAP in per cent."""

    rank_1: float | None
    rank_5: float | None
    rank_20: float | None
    mAP: float | None


class CitedRow(NamedTuple):
    """Another method's row of Table 5, on the three data sets."""

    method: str
    mars: Printed
    ilids_vid: Printed
    prid2011: Printed


# data set -> configuration (as `amem reproduce` names it) -> Tables 3 and 4 (MARS), Table 5 (others)
RESULTS: dict[str, dict[str, Printed]] = {
    "mars": {
        "baseline": Printed(83.3, 93.3, 96.4, 75.1),
        "aem": Printed(86.0, 93.6, 96.7, 78.4),
        "mem-c1": Printed(85.4, 94.1, 97.0, 78.3),
        "mem-c2": Printed(86.0, 94.0, 96.9, 78.7),
        "mem-c3": Printed(86.2, 94.1, 97.2, 79.0),
        "mem-c4": Printed(85.6, 94.1, 97.1, 78.6),
        "after-enhancement": Printed(85.0, 93.7, 96.7, 77.3),
        "amem": Printed(86.7, 94.0, 97.1, 79.3),
        "r3d-baseline": Printed(56.1, None, None, 41.5),
        "r3d-aem": Printed(61.7, None, None, 46.6),
        "r3d-mem-c3": Printed(61.8, None, None, 48.5),
        "r3d-amem": Printed(62.8, None, None, 49.1),
        "p3d-baseline": Printed(68.8, None, None, 54.3),
        "p3d-aem": Printed(73.5, None, None, 61.2),
        "p3d-mem-c3": Printed(74.0, None, None, 62.6),
        "p3d-amem": Printed(74.5, None, None, 63.1),
    },
    "ilids-vid": {
        "baseline": Printed(82.6, 96.3, 99.0, None),
        "amem": Printed(87.2, 97.7, 99.5, None),
    },
    "prid2011": {
        "baseline": Printed(88.8, 98.1, 99.8, None),
        "amem": Printed(93.3, 98.7, 100.0, None),
    },
}

CITED = (  # Table 5, the rows above the baseline, as the paper cites them
    CitedRow(
        "CNN+XQDA (Zheng et al. 2016)",
        Printed(68.3, 82.6, 89.4, 49.3),
        Printed(53.0, 81.4, 95.1, None),
        Printed(77.3, 93.5, 99.3, None),
    ),
    CitedRow(
        "RQEN (Song et al. 2018)",
        Printed(77.8, 88.8, 94.3, 71.1),
        Printed(76.1, 92.9, 99.3, None),
        Printed(92.4, 98.8, 100.0, None),
    ),
    CitedRow(
        "CSA-CSE (Chen et al. 2018)",
        Printed(81.2, 92.1, None, 69.4),
        Printed(79.8, 91.8, None, None),
        Printed(88.6, 99.1, None, None),
    ),
    CitedRow(
        "DR-STAN (Li et al. 2018)",
        Printed(82.3, None, None, 65.8),
        Printed(80.2, None, None, None),
        Printed(93.2, None, None, None),
    ),
    CitedRow(
        "3D-NLA (Liao et al. 2018)",
        Printed(84.3, 94.6, None, 77.0),
        Printed(81.3, None, None, None),
        Printed(91.2, None, None, None),
    ),
    CitedRow(
        "3D PersonVLAD (Wu et al. 2019)",
        Printed(82.8, 94.8, 99.0, 64.7),
        Printed(70.7, 88.2, 99.2, None),
        Printed(88.0, 96.2, 99.7, None),
    ),
    CitedRow(
        "STMP (Liu et al. 2019)",
        Printed(84.4, 93.2, 96.3, 72.7),
        Printed(84.3, 96.8, 99.5, None),
        Printed(92.7, 98.8, 99.8, None),
    ),
    CitedRow(
        "M3D (Li, Zhang, and Huang 2019)",
        Printed(84.4, 93.9, 97.8, 74.1),
        Printed(74.0, 94.3, None, None),
        Printed(91.0, None, None, None),
    ),
    CitedRow(
        "SCAN (Zhang et al. 2019)",
        Printed(86.6, 94.8, 97.1, 76.7),
        Printed(81.3, 93.3, 100.0, None),
        Printed(92.0, 98.0, 100.0, None),
    ),
)

# Section Model Size, in the paper's "MB".
BACKBONE_MB = 50.2
FINAL_MODEL_MB = 67.7
CONV3D_BRANCH_MB = 90.0  # "about 90MB increment for one branch"
CONV2D_BRANCH_MB = 32.6
PEOPLE = 625  # MARS' training people: the identity classifier of the measured models


def printed(dataset: str, configuration: str) -> Printed | None:
    """The paper's figures of a configuration on a data set, or None when it prints none."""
    return RESULTS.get(dataset, {}).get(configuration)
