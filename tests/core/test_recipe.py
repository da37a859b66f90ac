import gc
import pickle
from dataclasses import replace
from hashlib import blake2b

import pytest

from raysearch.errors import ConfigError
from raysearch.recipe.candidate import Candidate, Prompt, denoise, rebase
from raysearch.recipe.digests import digest
from raysearch.recipe.origins import Branch, Derived, Noise, Perturb, Recording, Renoise
from raysearch.testing import fake_sampler

SAMPLER = fake_sampler(10)
PROMPT = Prompt("a red circle moving left")


def noise(index: int = 0, prompt: Prompt = PROMPT, sampler=SAMPLER) -> Candidate:
    return Candidate(prompt, sampler, Noise(7, index))


def test_denoising_in_legs_is_the_same_candidate():
    assert denoise(denoise(noise(), 4), 8) is denoise(noise(), 8)


def test_equal_recipes_are_one_object_and_die_with_their_last_user():
    x = Candidate(PROMPT, SAMPLER, Derived(noise(), 3, Perturb(beta=0.25)))
    assert x is Candidate(PROMPT, SAMPLER, Derived(noise(), 3, Perturb(beta=0.25)))
    identity = x.identity
    del x
    gc.collect()
    from raysearch.recipe import candidate as recipe

    assert identity not in recipe._candidates


def test_a_pickled_recipe_comes_back_as_itself():
    x = denoise(Candidate(PROMPT, SAMPLER, Derived(denoise(noise(), 6), 0, Renoise(to_step=2))), 5)
    assert pickle.loads(pickle.dumps(x)) is x


@pytest.mark.parametrize(
    "other",
    [
        noise(prompt=Prompt("another")),
        noise(prompt=replace(PROMPT, image=Recording("a.png", b"1", still=True))),
        noise(prompt=replace(PROMPT, image=Recording("a.png", b"1", still=True, fit="pad"))),
        noise(prompt=replace(PROMPT, last=Recording("a.png", b"1", still=True))),
        noise(sampler=replace(SAMPLER, model=b"other weights")),
        noise(sampler=replace(SAMPLER, negative_prompt="blurry")),
        noise(sampler=replace(SAMPLER, fingerprint="float16")),
        noise(sampler=replace(SAMPLER, guidance_scale=2.0)),
        noise(sampler=replace(SAMPLER, guidance_scale_2=2.0)),
    ],
)
def test_lineage_is_blind_to_prompt_and_sampler_and_identity_is_not(other):
    assert other.lineage == noise().lineage
    assert other.identity != noise().identity
    child, mine = (
        Candidate(x.prompt, x.sampler, Derived(denoise(x, 3), 1, Perturb(beta=0.5))) for x in (other, noise())
    )
    assert child.origin.key == mine.origin.key


def test_noise_zero_is_the_seed_itself_and_every_other_key_is_its_own():
    assert noise().origin.key == 7
    parent = denoise(noise(), 4)
    origins = [Noise(7, 1), Noise(7, 2), Noise(8, 1), Noise(7, 0, "child")]
    origins += [
        Derived(parent, 0, Perturb(beta=0.1)),
        Derived(parent, 1, Perturb(beta=0.1)),
        Derived(parent, 0, Perturb(beta=0.1), scope="s"),
    ]
    origins += [
        Derived(denoise(noise(), 5), 0, Perturb(beta=0.1)),
        Derived(parent, 0, Renoise(to_step=2)),
        Derived(parent, 0, Branch()),
    ]
    keys = [o.key for o in origins]
    assert len({7, *keys}) == len(keys) + 1


def test_arms_with_another_beta_share_the_noise_but_not_the_candidate():
    a, b = (Derived(noise(), 0, Perturb(beta=beta)) for beta in (0.1, 0.2))
    assert a.key == b.key
    assert a.identity != b.identity
    assert a.lineage != b.lineage


def test_digests_are_canonical():
    assert digest("ab", "c") != digest("a", "bc")
    assert digest(1) != digest(1.0) != digest("1") != digest(b"1")
    assert digest(("a",), "b") != digest("a", ("b",))
    assert digest("x", (1, None)) == blake2b(b"s1:x(2:i1:1i4:None", digest_size=16).digest()


def test_no_step_backwards_and_none_beyond_the_end():
    for until in (3, 11):
        with pytest.raises(ConfigError):
            denoise(denoise(noise(), 4), until)


def test_rebase_keeps_the_noise_and_drops_later_origins():
    other = replace(SAMPLER, num_steps=20, sigmas=tuple(1 - i / 20 for i in range(21)))
    start = Candidate(PROMPT, SAMPLER, Derived(noise(), 2, Perturb(beta=0.3)))
    late = Candidate(PROMPT, SAMPLER, Derived(denoise(start, 6), 0, Renoise(to_step=2)))
    rebased = rebase(denoise(late, 9), other)
    assert rebased is rebase(start, other)
    assert rebased.sampler is other
    assert rebased.origin.key == start.origin.key


def test_a_chain_of_thousands_of_origins_needs_no_recursion():
    x = noise()
    for i in range(5000):
        x = Candidate(PROMPT, SAMPLER, Derived(x, i, Perturb(beta=0.1)))
    assert sum(1 for _ in x.ancestors()) == 5000
    assert x.origin.describe()["ordinal"] == 4999
