import keras

import kwrap


def test_it_is_the_plan_that_kwrap_makes(data):
    shown = data("plan", "plain.keras", "--hook", "prune:schedule.target_sparsity=0.8", "--where", "conv*")
    (entry,) = shown["entries"]
    assert (entry["path"], entry["hooks"][0]["name"], entry["hooks"][0]["added"]) == ("conv", "prune", True)
    from kwrap_prune import ConstantSparsity

    model = keras.models.load_model("plain.keras")
    expected = kwrap.plan(model, kwrap.use("prune", schedule=ConstantSparsity(0.8, 0)), where="conv*")
    assert shown == expected.as_dict()


def test_without_a_hook_it_shows_those_that_are_there(data, run):
    assert data("plan", "wrapped.keras") == kwrap.plan(keras.models.load_model("wrapped.keras")).as_dict()
    assert "prune" in run("plan", "wrapped.keras").output


def test_several_hooks_go_each_to_its_place_in_order(data):
    options = ("--hook", "noise", "--hook", "prune@keras.layers.Dense", "--exclude", "flatten")
    shown = data("plan", "plain.keras", *options, "--where", "*")
    hooks = {entry["path"]: [hook["name"] for hook in entry["hooks"]] for entry in shown["entries"]}
    assert hooks == {"conv": ["noise"], "logits": ["noise", "prune"]}
    assert {item["path"] for item in shown["skipped"]} == {"flatten"}


def test_places_without_a_hook_are_refused(refused):
    assert "there is no --hook" in refused("plan", "plain.keras", "--where", "conv")


def test_a_where_that_no_hook_is_for_is_refused(refused):
    assert "--where is for hooks without an @" in refused(
        "plan", "plain.keras", "--hook", "noise@logits", "--where", "conv"
    )


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_paths(refused):
    assert "The nearest paths: 'logits'" in refused("plan", "plain.keras", "--hook", "noise@logit")
