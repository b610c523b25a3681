"""A run and its price begin alike; what is refused before work stands in test_bad_inputs."""

import inspect

from margincons.measure import measure
from margincons.prepare import prepare


def test_what_is_prepared_has_the_options_of_measure_and_their_defaults():
    options, ours = (inspect.signature(function).parameters for function in (measure, prepare))
    assert set(options) - set(ours) == {"progress"}
    assert set(ours) <= set(options)
    alike = {name: one.default for name, one in ours.items() if name != "out"}  # a price may leave the folder open
    assert alike == {name: options[name].default for name in alike}
