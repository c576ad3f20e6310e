"""A command that is killed at any change of the disk ends, given again, as the unbroken one: a sample."""

import pytest

from tests.reliability.kills import prepare, try_each


@pytest.fixture(scope="module")
def commands(cache, tmp_path_factory):
    root = tmp_path_factory.mktemp("kills")
    return root, prepare(root, cache)


@pytest.mark.parametrize(
    ("name", "every", "first"),
    # a claim's own file, the moment between the two moves of the last checkpoint, a store's first file
    [("record of a job", 1, 0), ("export", 15, 0), ("start and checkpoints", 49, 4), ("feature store", 54, 12)],
)
def test_what_is_killed_at_a_change_of_the_disk_ends_as_the_unbroken_one(commands, name, every, first):
    root, bodies = commands
    changes, kills = try_each(name, bodies[name], root, every, first)
    assert changes >= kills >= 1
