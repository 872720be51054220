"""What all tests share: measured times are shown at the end of a run, and never decide whether it is red."""


def pytest_terminal_summary(terminalreporter):
    for report in terminalreporter.getreports("passed"):
        for what, value in report.user_properties:
            if report.when == "call":
                terminalreporter.write_line(f"measured: {what}: {value}  ({report.nodeid})")
