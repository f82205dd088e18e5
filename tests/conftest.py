import os
import signal

# A shell starts what runs in the background deaf to Ctrl-C, and nohup to a closed terminal; tests send both.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


def pytest_terminal_summary(terminalreporter):
    if not os.environ.get("DENSEDISTILL_DATA"):
        terminalreporter.write_line(
            "DENSEDISTILL_DATA is not set: the readers were not tried on real data that may not ship "
            "(a folder with stereo/flyingthings3d, stereo/unlabelled_middlebury2014, kitti2012)"
        )
