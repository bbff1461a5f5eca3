from stages.core.seeds import seed_for


def test_a_seed_depends_on_seed_purpose_and_order_of_the_purpose_only():
    assert seed_for(1, "order", 2) == seed_for(1, "order", 2)
    others = {seed_for(2, "order", 2), seed_for(1, "order", 3), seed_for(1, 2, "order"), seed_for(1, "order"), seed_for(1, "order", "2")}
    assert seed_for(1, "order", 2) not in others
    assert len(others) == 5


def test_seeds_fit_into_63_bits():
    assert all(0 <= seed_for(0, index) < 2**63 for index in range(100))
