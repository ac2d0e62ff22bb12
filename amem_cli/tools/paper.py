"""The figures printed in the paper: Tables 3, 4 and 5, and the section Model Size. Imports nothing heavy."""

from typing import NamedTuple


class Rates(NamedTuple):
    """One row of a table on one data set, in per cent as printed; None: not printed."""

    rank_1: float | None
    rank_5: float | None
    rank_20: float | None
    mAP: float | None = None

    def fractions(self) -> dict[str, float | None]:
        """The rates by name, in [0, 1]."""
        names = ("rank-1", "rank-5", "rank-20", "mAP")
        return {name: None if rate is None else round(rate / 100, 4) for name, rate in zip(names, self, strict=True)}


# data set -> row (as `amem reproduce` names it): Tables 3 and 4 (MARS), Table 5 (the others)
RESULTS: dict[str, dict[str, Rates]] = {
    "mars": {
        "baseline": Rates(83.3, 93.3, 96.4, 75.1),
        "aem": Rates(86.0, 93.6, 96.7, 78.4),
        "mem-c1": Rates(85.4, 94.1, 97.0, 78.3),
        "mem-c2": Rates(86.0, 94.0, 96.9, 78.7),
        "mem-c3": Rates(86.2, 94.1, 97.2, 79.0),
        "mem-c4": Rates(85.6, 94.1, 97.1, 78.6),
        "after-enhancement": Rates(85.0, 93.7, 96.7, 77.3),
        "amem": Rates(86.7, 94.0, 97.1, 79.3),
        "r3d-baseline": Rates(56.1, None, None, 41.5),
        "r3d-aem": Rates(61.7, None, None, 46.6),
        "r3d-mem-c3": Rates(61.8, None, None, 48.5),
        "r3d-amem": Rates(62.8, None, None, 49.1),
        "p3d-baseline": Rates(68.8, None, None, 54.3),
        "p3d-aem": Rates(73.5, None, None, 61.2),
        "p3d-mem-c3": Rates(74.0, None, None, 62.6),
        "p3d-amem": Rates(74.5, None, None, 63.1),
    },
    "ilids-vid": {"baseline": Rates(82.6, 96.3, 99.0), "amem": Rates(87.2, 97.7, 99.5)},
    "prid2011": {"baseline": Rates(88.8, 98.1, 99.8), "amem": Rates(93.3, 98.7, 100.0)},
}


CITED = {  # Table 5, other methods: method -> data set
    method: {"mars": Rates(*mars), "ilids-vid": Rates(*ilids_vid), "prid2011": Rates(*prid2011)}
    for method, mars, ilids_vid, prid2011 in (
        ("CNN+XQDA (Zheng et al. 2016)", (68.3, 82.6, 89.4, 49.3), (53.0, 81.4, 95.1), (77.3, 93.5, 99.3)),
        ("RQEN (Song et al. 2018)", (77.8, 88.8, 94.3, 71.1), (76.1, 92.9, 99.3), (92.4, 98.8, 100.0)),
        ("CSA-CSE (Chen et al. 2018)", (81.2, 92.1, None, 69.4), (79.8, 91.8, None), (88.6, 99.1, None)),
        ("DR-STAN (Li et al. 2018)", (82.3, None, None, 65.8), (80.2, None, None), (93.2, None, None)),
        ("3D-NLA (Liao et al. 2018)", (84.3, 94.6, None, 77.0), (81.3, None, None), (91.2, None, None)),
        ("3D PersonVLAD (Wu et al. 2019)", (82.8, 94.8, 99.0, 64.7), (70.7, 88.2, 99.2), (88.0, 96.2, 99.7)),
        ("STMP (Liu et al. 2019)", (84.4, 93.2, 96.3, 72.7), (84.3, 96.8, 99.5), (92.7, 98.8, 99.8)),
        ("M3D (Li, Zhang, and Huang 2019)", (84.4, 93.9, 97.8, 74.1), (74.0, 94.3, None), (91.0, None, None)),
        ("SCAN (Zhang et al. 2019)", (86.6, 94.8, 97.1, 76.7), (81.3, 93.3, 100.0), (92.0, 98.0, 100.0)),
    )
}

# section Model Size, in the paper's "MB"
BACKBONE_MB = 50.2
FINAL_MODEL_MB = 67.7
CONV3D_BRANCH_MB = 90.0  # "about 90MB increment for one branch"
CONV2D_BRANCH_MB = 32.6
PEOPLE = 625  # training people of MARS: classes of the identity classifier in the measured models
