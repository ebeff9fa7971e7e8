"""Other scripts run with the models registered."""

import subprocess
import sys


def test_script_runs_with_the_models_registered_and_its_own_arguments(tmp_path):
    script = tmp_path / 'script.py'
    script.write_text("import sys, timm\nprint(timm.is_model('aresnet50_relmha'), sys.argv[1:], __name__)\n")
    command = [sys.executable, '-m', 'timm_convattn.run', str(script), '--model', 'x']
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.split('\n')[0] == "True ['--model', 'x'] __main__"


def test_without_a_script_it_prints_its_usage():
    run = subprocess.run([sys.executable, '-m', 'timm_convattn.run'], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert 'python -m timm_convattn.run train.py' in run.stdout
