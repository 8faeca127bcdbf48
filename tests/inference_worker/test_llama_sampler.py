import pytest

llama_sampler = pytest.importorskip("inference_worker.llama_sampler", reason="no llama_cpp here")


def test_no_position_ever_gets_the_seed_that_means_random() -> None:
    position_seed = llama_sampler.position_seed
    seeds = [position_seed(seed, index) for seed in range(50) for index in range(50)]
    assert len(set(seeds)) > 2490
    assert max(seeds) < llama_sampler.RANDOM_SEED
