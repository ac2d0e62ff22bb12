"""The two person ids that are nobody's (MARS, Market-1501): data sets carry them, evaluation rules turn on them."""

JUNK = -1  # boxes that show no person; ignored in every evaluation
DISTRACTOR = 0  # wrong detections; they stay in the gallery
