"""The ordered map beneath the tables, with enough keys that its chunks split and join."""

import random

from moorage.store.sortedmap import SortedMap


def test_the_sorted_map_agrees_with_a_dict_through_splits_and_joins() -> None:
    rng = random.Random(3)
    current: SortedMap[int] = SortedMap()
    model: dict[str, int] = {}
    kept: list[tuple[SortedMap[int], dict[str, int]]] = []
    for turn in range(120):
        editor = current.edit()
        grows = turn % 40 < 24
        for _ in range(rng.choice([1, 3, 200])):
            key = f"{rng.randrange(6000):05}"
            if rng.random() < (0.8 if grows else 0.05):
                editor.put(key, turn)
                model[key] = turn
            else:
                for doomed in [key] if grows else [f"{int(key) + n:05}" for n in range(100)]:
                    editor.delete(doomed)
                    model.pop(doomed, None)
            if rng.random() < 0.02:
                kept.append((editor.snapshot(), dict(model)))
        current = editor.snapshot()
        if turn % 10 == 0:
            kept.append((current, dict(model)))
    kept.append((SortedMap.from_sorted(sorted(model), [model[key] for key in sorted(model)]), model))
    for version, expected in kept:
        assert list(version.values()) == [expected[key] for key in sorted(expected)]
        assert len(version) == len(expected)
        for _ in range(10):
            after, prefix = (
                f"{rng.randrange(6000):05}"[: rng.randrange(6)],
                f"{rng.randrange(60):03}"[: rng.randrange(4)],
            )
            wanted = [expected[key] for key in sorted(expected) if key > after and key.startswith(prefix)]
            assert list(version.scan(prefix, after)) == wanted
            key = f"{rng.randrange(6000):05}"
            assert version.get(key) == expected.get(key)
