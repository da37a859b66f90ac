"""Draft and commit: explore with few solver steps, render the winner with all (as CachedSearch and Flash-BoN do)."""

from policies.checks import at_least
from raysearch.config.policies import Cache, PolicyBlock, load_policy
from raysearch.errors import BudgetExhausted, ConfigError, check
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context

BEST_OF_8 = PolicyBlock({"name": "best_of_n", "n": 8})


async def search(
    ctx: Context, *, draft_steps: int = 8, explore: PolicyBlock = BEST_OF_8, cache: Cache = None
) -> Candidate:
    """Draft and commit: the policy `explore` searches with `draft_steps` solver steps; its winner is rendered in full.

    Drafts may have a step cache (`raysearch.config.step_cache`), the rendering has none. Then `explore` may look at
    finished drafts alone.

    The rendering begins at the winner's noise. Origins at step 0 (noise, perturbation, neighbour) are carried over and
    later origins (renoising, branch) are dropped, so an `explore` that searches the initial noise gains most.
    The budget reserves the cost of the rendering; when the rest is used up, the best candidate so far is rendered.
    """
    at_least(1, draft_steps=draft_steps)
    check(draft_steps <= ctx.num_steps, "policy.draft_steps", draft_steps, f"at most sampler.num_steps={ctx.num_steps}")
    policy, arguments = load_policy(explore, "policy.explore")
    draft = ctx.draft(draft_steps, cache)
    try:
        x = await policy(draft, **arguments)
    except BudgetExhausted:
        x = draft.best
    except ConfigError as error:  # about the inner policy's argument, which it calls policy.n
        raise ConfigError(f"policy.explore ({explore['name']}): {error}") from error
    check(isinstance(x, Candidate), "policy.explore.name", explore["name"], "a policy that returns a Candidate")
    return ctx.denoise([ctx.rebase(x, ctx.sampler)])[0]
