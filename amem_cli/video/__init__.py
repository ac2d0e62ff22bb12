"""From videos to an answer: boxes, tracks, crops (`amem tracklets`), search, links between cameras, and their page.

PyAV decodes; it is the extra `amem[video]` and is imported when the first video is opened.
"""
