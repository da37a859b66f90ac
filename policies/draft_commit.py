"""Draft and commit: explore with cheap drafts, render the winner in full (as CachedSearch and Flash-BoN do)."""

from policies.checks import at_least
from raysearch.config.policies import PolicyBlock, load_policy
from raysearch.errors import BudgetExhausted, ConfigError, check
from raysearch.recipe.candidate import Candidate
from raysearch.search.context import Context

BEST_OF_8 = PolicyBlock({"name": "best_of_n", "n": 8})


async def search(ctx: Context, *, draft_steps: int = 8, explore: PolicyBlock = BEST_OF_8) -> Candidate:
    """Draft and commit: any policy explores with `draft_steps` solver steps; its winner is rendered with all of them.

    What is rendered is the winner's noise: origins at step 0 (noises, perturbations, neighbours) are carried over, and
    later ones (resampling, renoising, branches) are dropped, so an `explore` that searches the initial noise gains
    most. A budget holds the rendering back; exploration that meets its end commits the best so far.
    """
    at_least(1, draft_steps=draft_steps)
    check(draft_steps <= ctx.num_steps, "policy.draft_steps", draft_steps, f"at most {ctx.num_steps}, the full number")
    policy, arguments = load_policy(explore, "policy.explore")
    draft = ctx.draft(draft_steps)
    try:
        x = await policy(draft, **arguments)
    except BudgetExhausted:
        x = draft.best
    except ConfigError as error:  # of the inner policy's arguments, which it calls policy.n and the like
        raise ConfigError(f"policy.explore ({explore['name']}): {error}") from error
    check(isinstance(x, Candidate), "policy.explore.name", explore["name"], "a policy that returns a Candidate")
    return ctx.denoise([ctx.rebase(x, ctx.sampler)])[0]
