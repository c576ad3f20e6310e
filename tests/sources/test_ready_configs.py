"""Published data sets from their configs alone: real headers, rows made up."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hydra.utils import instantiate

from siglip_med.commands import train
from siglip_med.conditions import load_conditions, training_prompts
from siglip_med.core.config import typed
from siglip_med.core.errors import UserError
from tests.data.tables import write
from tests.docs.blocks import ROOT, blocks
from tests.short_runs import compose_config, two_steps

GROUPS = "AKIEC,BCC,BEN_OTH,BKL,DF,INF,MAL_OTH,MEL,NV,SCCKA,VASC"
HEADERS = {
    "isic2020": "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target",
    "isic2024": "isic_id,target,patient_id,age_approx,sex,anatom_site_general,clin_size_long_diam_mm,image_type",
    "ddi": ",DDI_ID,DDI_file,skin_tone,malignant,disease",
    "derm7pt": "case_num,diagnosis,seven_point_score,pigment_network,clinic,derm,location,sex,management",
}


def photograph(path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(number)
    picture = cv2.resize(rng.integers(60, 255, (6, 6, 3), dtype=np.uint8), (72, 72))
    cv2.imwrite(str(path), picture)


def isic2020(root, count: int) -> None:
    rows = [
        f"ISIC_{i},IP_{i // 2},{'male' if i % 2 else ''},{i}.0,torso,unknown,x,{int(i % 4 == 0)}" for i in range(count)
    ]
    write(root / "ISIC_2020_Training_GroundTruth.csv", "\n".join([HEADERS["isic2020"], *rows]) + "\n")
    for i in range(count):
        photograph(root / f"train/ISIC_{i}.jpg", i)


def milk10k(root, count: int) -> None:
    names = GROUPS.split(",")
    about = ["lesion_id,image_type,isic_id,attribution,copyright_license,age_approx,sex,skin_tone_class,site"]
    truth = [f"lesion_id,{GROUPS}"]
    for lesion in range(count // 2):
        truth.append(f"IL_{lesion}," + ",".join(str(float(place == lesion % 11)) for place in range(len(names))))
        for view in range(2):
            name = f"ISIC_{lesion}_{view}"
            about.append(
                f"IL_{lesion},{'dermoscopic' if view else 'clinical: close-up'},{name},x,CC-BY-NC,55,male,3,arm"
            )
            photograph(root / f"MILK10k_Training_Input/IL_{lesion}/{name}.jpg", 2 * lesion + view)
    write(root / "MILK10k_Training_Metadata.csv", "\n".join(about) + "\n")
    write(root / "MILK10k_Training_GroundTruth.csv", "\n".join(truth) + "\n")


@pytest.mark.parametrize(("name", "make", "conditions"), [("isic2020", isic2020, 2), ("milk10k", milk10k, 11)])
def test_a_run_trains_from_the_config_alone(tmp_path, name, make, conditions):
    make(tmp_path / "data", 88)
    settings = two_steps(tmp_path, f"data={name}", f"data.source.root={tmp_path / 'data'}")
    result = train.run(settings)
    table = result.components.data.table
    assert (len(table), table.read, len(table.conditions)) == (88, 88, conditions)
    assert len(set(table.cases)) == 44


def source_of(name, root):
    return instantiate(compose_config(f"data={name}", f"data.source.root={root}").data.source)


def test_isic2024(tmp_path):
    rows = "I1,0,P1,60,male,head,3.1,TBP\nI2,1,P1,60,male,,4,TBP\nI3,0,,NA,,arm,4,TBP\n"
    write(tmp_path / "train-metadata.csv", HEADERS["isic2024"] + "\n" + rows)
    table = source_of("isic2024", tmp_path).load()
    assert table.frame["image"].iloc[0] == "train-image/image/I1.jpg"
    assert table.conditions == ("benign skin lesion", "malignant skin lesion")
    assert table.frame["case"].tolist() == ["P1", "P1", "train-image/image/I3.jpg"]
    training_prompts(load_conditions(table.conditions))


def test_the_file_of_isic2024_unpacks_to_its_pictures_by_the_snippet_of_the_docs(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    pictures = {}
    for number in range(3):
        photograph(tmp_path / "one.jpg", number)
        pictures[f"ISIC_{number}"] = (tmp_path / "one.jpg").read_bytes()
    with h5py.File(tmp_path / "train-image.hdf5", "w") as file:
        for name, jpeg in pictures.items():
            file[name] = np.void(jpeg)
    (snippet,) = [block.body for block in blocks(ROOT / "docs" / "data.md") if "h5py" in block.body]
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "docs/data.md", "exec"), {})
    found = {path.stem: path.read_bytes() for path in (tmp_path / "train-image" / "image").iterdir()}
    assert found == pictures


def test_ddi(tmp_path):
    rows = "0,1,000001.png,56,True,melanoma-in-situ\n1,2,000002.png,12,False,epidermal-cyst\n"
    write(tmp_path / "ddi_metadata.csv", HEADERS["ddi"] + "\n" + rows)
    for number in (1, 2):
        photograph(tmp_path / f"00000{number}.png", number)
    table = source_of("ddi", tmp_path).load()
    assert table.frame["skin_tone"].tolist() == ["5-6", "1-2"]
    assert table.conditions == ("benign skin lesion", "malignant skin lesion")


def test_derm7pt(tmp_path):
    names = ("clark nevus", "melanoma (in situ)", "basal cell carcinoma", "seborrheic keratosis", "vascular lesion")
    rows = "".join(f"{i},{name},2,absent,A/{i}c.jpg,A/{i}d.jpg,back,female,x\n" for i, name in enumerate(names))
    write(tmp_path / "meta/meta.csv", HEADERS["derm7pt"] + "\n" + rows)
    table = source_of("derm7pt", tmp_path).load()
    assert table.frame["image"].iloc[0] == "images/A/0d.jpg"
    assert len(table.conditions) == 5
    training_prompts(load_conditions(table.conditions))
    source, split = source_of("derm7pt", tmp_path), {"train": "meta/train_indexes.csv", "test": "meta/test_indexes.csv"}
    write(tmp_path / split["train"], "indexes\n0\n3\n4\n")
    write(tmp_path / split["test"], "indexes\n2\n")
    parts = replace(source, split_rows=split).load().frame["source_split"].tolist()
    assert parts == ["train", "", "test", "train", "train"]
    for wrong, message in (("5", "'5' is no row of the table, 0 to 4"), ("3", "row 3 is in train already")):
        write(tmp_path / split["test"], f"indexes\n{wrong}\n")
        with pytest.raises(UserError, match=message):
            replace(source, split_rows=split).load()
    with pytest.raises(UserError, match="leave split_column and join_table out"):
        replace(source, split_rows=split, split_column="x")


def test_fitzpatrick17k_c(tmp_path):
    write(tmp_path / "fitzpatrick17k_c.csv", "md5hash,label,qc,fitzpatrick_scale\na,acne,,3\nb,vitiligo,,-1\n")
    for number, name in enumerate("ab"):
        photograph(tmp_path / f"images/{name}.jpg", number)
    assert len(source_of("fitzpatrick17k_c", tmp_path).load()) == 2


def test_a_german_excel_export_with_its_codes_trains_with_no_option(tmp_path, capsys):
    names = ("Ekzem", "Schuppenflechte", "Muttermal für immer")
    rows = "".join(f"{i}.jpg;{names[i % 3]};;\r\n" for i in range(60))
    write(tmp_path / "data/labels.csv", "sep=;\r\nimage;condition;;\r\n" + rows + ";;;\r\n", "cp1252")
    codes = "condition;code\r\nEkzem;L30.9\r\nSchuppenflechte;L40.9\r\nMuttermal für immer;D22.9\r\n"
    write(tmp_path / "codes.csv", codes, "cp1252")
    for number in range(60):
        photograph(tmp_path / f"data/{number}.jpg", number)
    settings = typed(
        compose_config(
            "data=csv",
            f"data.source.root={tmp_path / 'data'}",
            f"conditions.codes={tmp_path / 'codes.csv'}",
            f"paths.output_dir={tmp_path / 'run'}",
            f"paths.cache_dir={tmp_path / 'cache'}",
            "data.num_workers=0",
            "data.batch_size=8",
            "trainer.max_steps=1",
            "callbacks.progress=null",
            "evaluation.bootstrap=20",
        ),
        train.Settings,
    )
    result = train.run(settings)
    said = capsys.readouterr().out
    assert "61 rows read = 60 used + 1 left out" in said
    assert "prompts word 3 of 3 conditions otherwise than the data: 'Ekzem' as 'dermatitis'" in said
    prompts = {sentences[0] for sentences in result.components.training_prompts}
    assert prompts == {
        "A dermatological image showing dermatitis.",
        "A dermatological image showing psoriasis.",
        "A dermatological image showing melanocytic nevi.",
    }
    account = result.module.checkpoint_payload["account"]
    assert account[0] == "61 rows read = 60 used + 1 left out"
    assert any("read as cp1252" in line for line in account)
