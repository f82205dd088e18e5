"""Reports: what was kept and what was gained, on one page that needs nothing else. Imports no torch."""

from .page import write_report
from .pictures import Picture
from .runs import RunRecord, read_run, read_runs
from .tables import Cost

__all__ = ["Cost", "Picture", "RunRecord", "read_run", "read_runs", "write_report"]
