"""Generated walking people ("walkers") for the demo, the benchmark and the tests: no image of a real person."""
