"""The two person ids that mean no person (MARS, Market-1501); the evaluation treats them separately."""

JUNK = -1  # boxes that show no person; ignored in every evaluation
DISTRACTOR = 0  # wrong detections; they stay in the gallery
