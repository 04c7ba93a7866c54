"""Airflow DAGs of all schedules of a Meltano project. Let Airflow's DAG folder be the one of this file.

Airflow reads each file that speaks of a dag; what makes them stands in the package beside this file.
"""

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).parent)
)  # not every part of Airflow has put the folder there: `dags list --local`

from piano_engage_dags.shell import load

globals().update({f"dag_{number}": dag for number, dag in enumerate(load().values())})
