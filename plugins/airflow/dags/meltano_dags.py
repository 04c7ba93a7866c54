"""Airflow DAGs of all schedules of a Meltano project. Let Airflow's DAG folder be the one of this file.

Airflow reads each file that speaks of a dag; what makes them stands in the package beside this file.
"""

from piano_engage_dags.shell import load

globals().update({f"dag_{number}": dag for number, dag in enumerate(load().values())})
