from stages.draw_scenes.portable_random import PortableRandom


def test_dice__throw_the_same_on_every_machine() -> None:
    # Philox's raw words never change between NumPy releases (NEP 19), so neither may these.
    rng = PortableRandom(seed=7, stream=1, index=3)
    assert [rng.below(1000) for _ in range(6)] == [858, 446, 247, 467, 80, 66]


def test_dice__differ_by_seed_stream_and_index() -> None:
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    throws = {PortableRandom(seed=seed, stream=stream, index=index).below(2**60) for seed, stream, index in keys}
    assert len(throws) == len(keys)


def test_dice__reach_every_option_past_the_first_block_of_words() -> None:
    rng = PortableRandom(seed=0, stream=0, index=0)
    assert {rng.pick("abcde") for _ in range(300)} == set("abcde")


def test_dice__sample_without_repeats() -> None:
    rng = PortableRandom(seed=0, stream=0, index=0)
    assert sorted(rng.sample(range(8), 8)) == list(range(8))
