//! Between our languages and Azure's locales.

use std::collections::HashMap;

use verbatim_core::language::Language;

/// The region that a language is heard with unless the configuration says otherwise. From Azure's list of languages
/// (learn.microsoft.com/azure/ai-services/speech-service/language-support); where there are several, the one with the
/// most speakers or the widest model.
#[rustfmt::skip]
const DEFAULTS: &[(&str, &str)] = &[
    ("af", "af-ZA"), ("am", "am-ET"), ("ar", "ar-EG"), ("as", "as-IN"), ("az", "az-AZ"), ("bg", "bg-BG"),
    ("bn", "bn-IN"), ("bs", "bs-BA"), ("ca", "ca-ES"), ("cs", "cs-CZ"), ("cy", "cy-GB"), ("da", "da-DK"),
    ("de", "de-DE"), ("el", "el-GR"), ("en", "en-US"), ("es", "es-ES"), ("et", "et-EE"), ("eu", "eu-ES"),
    ("fa", "fa-IR"), ("fi", "fi-FI"), ("fr", "fr-FR"), ("gl", "gl-ES"), ("gu", "gu-IN"), ("he", "he-IL"),
    ("hi", "hi-IN"), ("hr", "hr-HR"), ("hu", "hu-HU"), ("hy", "hy-AM"), ("id", "id-ID"), ("is", "is-IS"),
    ("it", "it-IT"), ("ja", "ja-JP"), ("jw", "jv-ID"), ("ka", "ka-GE"), ("kk", "kk-KZ"), ("km", "km-KH"),
    ("kn", "kn-IN"), ("ko", "ko-KR"), ("lo", "lo-LA"), ("lt", "lt-LT"), ("lv", "lv-LV"), ("mk", "mk-MK"),
    ("ml", "ml-IN"), ("mn", "mn-MN"), ("mr", "mr-IN"), ("ms", "ms-MY"), ("mt", "mt-MT"), ("my", "my-MM"),
    ("ne", "ne-NP"), ("nl", "nl-NL"), ("no", "nb-NO"), ("pa", "pa-IN"), ("pl", "pl-PL"), ("ps", "ps-AF"),
    ("pt", "pt-BR"), ("ro", "ro-RO"), ("ru", "ru-RU"), ("si", "si-LK"), ("sk", "sk-SK"), ("sl", "sl-SI"),
    ("so", "so-SO"), ("sq", "sq-AL"), ("sr", "sr-RS"), ("su", "su-ID"), ("sv", "sv-SE"), ("sw", "sw-KE"),
    ("ta", "ta-IN"), ("te", "te-IN"), ("th", "th-TH"), ("tl", "fil-PH"), ("tr", "tr-TR"), ("uk", "uk-UA"),
    ("ur", "ur-IN"), ("uz", "uz-UZ"), ("vi", "vi-VN"), ("yue", "yue-CN"), ("zh", "zh-CN"),
];

/// What batch transcription chooses among when neither the client nor the configuration names a language: it takes ten
/// at most, and needs some.
pub(super) const BATCH_CANDIDATES: [&str; 10] =
    ["en-US", "zh-CN", "hi-IN", "es-ES", "fr-FR", "ar-EG", "pt-BR", "ru-RU", "de-DE", "ja-JP"];

/// The locale to hear `language` with; `None` when Azure has none.
pub(super) fn locale_of(language: Language, chosen: &HashMap<Language, String>) -> Option<&str> {
    if let Some(locale) = chosen.get(&language) {
        return Some(locale);
    }
    DEFAULTS.iter().find(|(code, _)| *code == language.code()).map(|(_, locale)| *locale)
}

/// The language of a locale such as `de-AT`; `None` for one that we have no name for.
pub(super) fn language_of(locale: &str) -> Option<Language> {
    let lower = locale.to_ascii_lowercase();
    let code = lower.split(['-', '_']).next().unwrap_or_default();
    let code = match (code, lower.as_str()) {
        // Hong Kong's `zh` is Cantonese.
        (_, "zh-hk") => "yue",
        ("nb", _) => "no",
        ("fil", _) => "tl",
        ("jv", _) => "jw",
        ("cmn" | "wuu", _) => "zh",
        ("iw", _) => "he",
        (code, _) => code,
    };
    Language::parse(code).ok()
}

/// Whether words of this language are written with spaces between them.
pub(super) fn is_spaced(language: Language) -> bool {
    !matches!(language.code(), "zh" | "yue" | "ja" | "th" | "lo" | "km" | "my" | "bo")
}

/// Whether this looks like a locale: `de-DE`, `zh-Hans-CN`.
pub(super) fn is_locale(text: &str) -> bool {
    text.contains('-')
        && text.len() <= 20
        && text
            .split('-')
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_locale_of_its_language() {
        for (code, locale) in DEFAULTS {
            let language = Language::parse(code).expect(code);
            assert!(is_locale(locale), "{locale}");
            assert_eq!(language_of(locale), Some(language), "{locale}");
        }
        for locale in BATCH_CANDIDATES {
            assert!(DEFAULTS.iter().any(|(_, known)| *known == locale), "{locale}");
        }
    }

    #[test]
    fn the_configuration_wins_over_the_table() {
        let german = Language::parse("de").expect("German");
        let chosen = HashMap::from([(german, "de-AT".to_owned())]);
        assert_eq!(locale_of(german, &chosen), Some("de-AT"));
        assert_eq!(locale_of(german, &HashMap::new()), Some("de-DE"));
        let latin = Language::parse("la").expect("Latin");
        assert_eq!(locale_of(latin, &HashMap::new()), None);
    }

    #[test]
    fn locales_that_are_written_otherwise_are_understood() {
        let code = |locale| language_of(locale).map(Language::code);
        assert_eq!(code("zh-HK"), Some("yue"));
        assert_eq!(code("nb-NO"), Some("no"));
        assert_eq!(code("en-us"), Some("en"));
        assert_eq!(code("xx-XX"), None);
    }
}
