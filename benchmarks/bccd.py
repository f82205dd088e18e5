"""What does distillation of FCOS earn on BCCD's blood cells, at equal processor time?

    python benchmarks/bccd.py --data data/BCCD --minutes 10 --json benchmarks/results/bccd.json

A FCOS on ResNet-18 is trained first, then students on MobileNetV2 from random weights, seed by seed.
"""

from equal_time import Study, run_study

STUDY = Study(
    title="BCCD test, 192x256, FCOS MobileNetV2-C128 from random weights, equal processor time",
    teacher="bccd/teacher",
    student="bccd/fcos",
    truth="boxes",
    rungs={
        "baseline": {},
        "logits + pair": {"logits": 1.0, "pair": 1.0},
    },
    figures={"map": "mAP %", "map50": "AP50 %"},
)

if __name__ == "__main__":
    run_study(STUDY, __doc__, "data/BCCD", minutes=2.0, teacher_steps=600)
