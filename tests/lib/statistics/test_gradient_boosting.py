import subprocess
import sys


def in_a_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_lightgbm_comes_without_scikit_learn_which_can_be_imported_afterwards() -> None:
    said = in_a_new_process(
        "import sys\n"
        "from lib.statistics.gradient_boosting import lightgbm\n"
        "before = 'sklearn' in sys.modules\n"
        "import sklearn.metrics\n"
        "print(before, lightgbm.Booster.__name__, sklearn.metrics.log_loss([0, 1], [0.5, 0.5]) > 0.69)"
    )
    assert said == "False Booster True"


def test_scikit_learn_that_is_there_already_stays() -> None:
    said = in_a_new_process(
        "import sklearn, sys\nimport lib.statistics.gradient_boosting\nprint(sys.modules['sklearn'] is sklearn)"
    )
    assert said == "True"


def test_the_ranker_and_what_comes_next_need_no_scikit_learn() -> None:
    code = (
        "import sys, numpy as np\n"
        "import lib.candidates.ranker\n"
        "from lib.next_item import ranker\n"
        "print(ranker.learn(np.arange(8.0)[:, None] * np.ones(len(ranker.feature_names(()))), np.arange(8) % 4 == 3, "
        "np.array([4, 4]), ()).booster.num_trees() > 0, 'sklearn' in sys.modules)"
    )
    assert in_a_new_process(code) == "True False"
