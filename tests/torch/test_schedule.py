"""When to look at a model that trains: hand-worked plans, and whole runs on a clock that stands still."""

from itertools import pairwise

import pytest

from calibrant.tuning.schedule import MOST, WARM_STEPS, Budget


class Clock:
    """Moves only when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def run(*, steps, step_seconds, cost, limit=0.05, first_step=None):
    """What the callback does, on a clock of its own: steps of evaluations, and the final share."""
    clock = Clock()
    budget = Budget(limit, clock=clock)

    def evaluate():
        clock.now += cost
        budget.spend(cost)

    evaluate()
    budget.start()
    looked, act_at = [0], WARM_STEPS
    for step in range(1, steps + 1):
        clock.now += first_step if step == 1 and first_step else step_seconds(step)
        budget.stepped(step)
        if step == steps:
            looked.append(step)
            evaluate()
        elif step == act_at:
            if budget.affords(step, steps):
                looked.append(step)
                evaluate()
            act_at = budget.next_step(step, steps)
    return looked, budget


def test_the_plan_by_hand():
    """1,000 steps of 1 s; 10 s an evaluation. The run may spend .05 / .95 · 1,000 = 52.6 s: after the first and with the
    last kept, 32.6 s pay for three more, a quarter of the 997 steps to go apart.
    """
    clock = Clock()
    budget = Budget(0.05, clock=clock)
    budget.spend(10.0)
    budget.start()
    for step in (1, 2, 3):
        clock.now += 1.0
        budget.stepped(step)
    assert not budget.affords(3, 1000)  # the first look only plans
    assert budget.next_step(3, 1000) == 3 + round(997 / 4)
    assert budget.affords(3, 1000)
    assert budget.share == pytest.approx(10 / 13)


def test_a_slow_first_step_does_not_count_as_the_pace():
    clock = Clock()
    budget = Budget(0.05, clock=clock)
    budget.spend(10.0)
    budget.start()
    for step, seconds in ((1, 600.0), (2, 1.0), (3, 1.0)):
        clock.now += seconds
        budget.stepped(step)
    # (.05 / .95)(602 + 97) - 20 = 16.8 s: one more; at the pace of the first step there were 100
    assert budget.next_step(3, 100) == 3 + round(97 / 2)


@pytest.mark.parametrize("limit", [0.02, 0.05, 0.2])
@pytest.mark.parametrize("cost", [0.3, 4.0, 30.0])
def test_all_evaluations_together_stay_within_the_budget(limit, cost):
    looked, budget = run(steps=2000, step_seconds=lambda _: 1.5, cost=cost, limit=limit)
    assert budget.share <= limit + 1e-9
    assert looked[0] == 0
    assert looked[-1] == 2000
    if cost < 30:
        gaps = [b - a for a, b in pairwise(looked)]
        assert max(gaps) - min(gaps) <= 4  # evenly


def test_the_budget_is_used_where_it_is_worth_an_evaluation():
    looked, budget = run(steps=2000, step_seconds=lambda _: 1.5, cost=4.0)
    assert budget.share > 0.048
    assert len(looked) == int(0.05 / 0.95 * 3000 / 4)


def test_cheap_evaluations_are_not_made_without_end():
    looked, _ = run(steps=5000, step_seconds=lambda _: 1.5, cost=1e-6)
    assert len(looked) == MOST


def test_a_short_run_is_looked_at_first_and_last_only():
    looked, budget = run(steps=60, step_seconds=lambda _: 1.0, cost=5.0)
    assert looked == [0, 60]
    assert budget.share == pytest.approx(10 / 70)


def test_a_run_that_turns_out_slower_gets_the_evaluations_that_it_can_pay_for():
    """Steps of 1 s for a tenth of the run, then of 10 s: at first nothing is affordable in between."""
    looked, budget = run(steps=400, step_seconds=lambda step: 1.0 if step < 40 else 10.0, cost=25.0)
    assert len(looked) > 2
    assert budget.share <= 0.05 + 1e-9


def test_a_run_that_turns_out_quicker_stops_looking():
    looked, budget = run(steps=1000, step_seconds=lambda step: 10.0 if step < 20 else 0.5, cost=10.0)
    assert budget.share < 0.1  # what was spent while steps seemed slow is gone
    planned = int(0.05 / 0.95 * 10_000 / 10)  # by the first pace
    assert len(looked) < planned / 8
    assert not [step for step in looked if 300 < step < 1000]


def test_a_resumed_budget_goes_on_from_the_last_point():
    _, whole = run(steps=500, step_seconds=lambda _: 1.5, cost=4.0)
    point = {"seconds": 4.0, "seconds_spent": whole.spent, "share": whole.share}
    again = Budget.resumed(0.05, [{"seconds": 9.0, "seconds_spent": 9.0, "share": 1.0}, point])
    assert (again.spent, again.cost) == (whole.spent, 4.0)
    assert again.seconds_trained == pytest.approx(whole.seconds_trained) == pytest.approx(750.0)
    assert again.share == pytest.approx(whole.share)
    assert Budget.resumed(0.05, []).spent == 0
