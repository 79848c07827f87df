"""What a build took, and where its time went: a page, a trace and JSON, made of a journal that is kept while building.

::

    journal.py     written while a build runs, beside its log: stages, runs of setup.py, memory, units
    reading.py     the journal read again, whatever ended the build
    ninjalog.py    .ninja_log, as ninja leaves it
    timeline.py    edges of the log put to their place in time, and over job slots
    collecting.py  all of it as one typed value, model.Report
    comparing.py   what the last build of the same kind took
    finding.py     PLAN or ``latest`` -> a journal
    html.py, charts.py, tables.py, assets/   the page: one file, no network
    trace.py       Trace Event JSON for Perfetto and Chrome
    after.py       what the pipeline calls; a fault in here never fails a build
"""
