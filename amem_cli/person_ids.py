"""Person ids that are not a person: two of MARS and Market-1501, and one of tracks without identities."""

JUNK = -1  # boxes that show no person; ignored in every evaluation
DISTRACTOR = 0  # wrong detections; they stay in the gallery
UNKNOWN = -2  # a track of an unknown person (layout "tracks"); its files have no person ids
