"""What does each term of structured distillation earn on CamVid, at equal processor time?

    python benchmarks/camvid.py --data data/CamVid --minutes 20 --json benchmarks/results/camvid.json

A PSPNet teacher is trained first, then ESPNet students from random weights, seed by seed, each rung of the
published ladder adding a term, and channel-wise distillation, which its authors recommend since. The rung
"kept" is a second student's: it reads the teacher's answers that earlier runs left in files.
"""

from equal_time import Study, run_study

STUDY = Study(
    title="CamVid val, 180x240, ESPNet from random weights, equal processor time",
    teacher="camvid/teacher",
    student="camvid/espnet",
    truth="labels",
    rungs={
        "baseline": {},
        "pixel": {"pixel": 1.0},
        "channel-wise": {"channel": 3.0},
        "pixel + pair": {"pixel": 1.0, "pair": 1.0},
        "pixel + pair, kept": {"pixel": 1.0, "pair": 1.0},
        "pixel + pair + holistic": {"pixel": 1.0, "pair": 1.0, "holistic": 0.1},
    },
    figures={"miou": "mIoU %"},
    kept=("pixel + pair, kept",),
    photographs=False,
)

if __name__ == "__main__":
    run_study(STUDY, __doc__, "data/CamVid", minutes=2.5, teacher_steps=450)
