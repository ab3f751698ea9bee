//! From a prompt, the text that a client wants to be taken into account, to the phrases that Azure listens for.

/// Most phrases in one request, as Azure documents it.
const MOST_PHRASES: usize = 500;
/// A phrase with more words than this is a sentence, not a name.
const MOST_WORDS: usize = 8;
/// Longest phrase, in characters.
const LONGEST: usize = 100;

/// The phrases of `prompt`: its parts between commas, semicolons, line ends and ends of sentences, each once, at most 500. Of a
/// part of more than eight words or a hundred characters only the words that look like names are taken (a capital letter behind
/// the first word, or a digit): a whole sentence as a phrase would make Azure hear it everywhere.
pub(super) fn phrases_of(prompt: &str) -> Vec<String> {
    let mut phrases: Vec<String> = Vec::new();
    for part in parts(prompt) {
        let words: Vec<&str> = part.split_whitespace().collect();
        let whole = words.join(" ");
        if words.len() <= MOST_WORDS && whole.chars().count() <= LONGEST {
            add(&mut phrases, &whole);
        } else {
            let names = words.iter().skip(1).filter(|word| is_name(word));
            names.for_each(|word| add(&mut phrases, word));
        }
    }
    phrases.truncate(MOST_PHRASES);
    phrases
}

fn parts(prompt: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut begin = 0;
    let mut letters = prompt.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        let ends = match letter {
            ',' | ';' | '\n' | '\r' | '、' | '。' | '，' | '；' | '！' | '？' => true,
            // `2.5` and `example.com` are not the ends of sentences.
            '.' | '!' | '?' | ':' => letters.peek().is_none_or(|(_, next)| next.is_whitespace()),
            _ => false,
        };
        if ends {
            parts.push(&prompt[begin..at]);
            begin = at + letter.len_utf8();
        }
    }
    parts.push(&prompt[begin..]);
    parts
}

fn add(phrases: &mut Vec<String>, phrase: &str) {
    let phrase = phrase.trim_matches(|letter: char| !letter.is_alphanumeric());
    let short = phrase.chars().count() <= LONGEST;
    if !phrase.is_empty() && short && !phrases.iter().any(|known| known == phrase) {
        phrases.push(phrase.to_owned());
    }
}

fn is_name(word: &str) -> bool {
    word.chars().any(|letter| letter.is_uppercase() || letter.is_numeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_sentences_become_phrases() {
        assert_eq!(
            phrases_of("Ada Lovelace, Verbatim 2.5;\nkubectl. Ada Lovelace! (Grace Hopper)"),
            ["Ada Lovelace", "Verbatim 2.5", "kubectl", "Grace Hopper"]
        );
        assert_eq!(phrases_of("東京、大阪。"), ["東京", "大阪"]);
        assert_eq!(phrases_of(" , .\n"), [""; 0]);
    }

    #[test]
    fn of_a_long_sentence_only_names_are_listened_for() {
        let prompt = "The meeting was opened by Dr. Ngozi Okafor of ACME, who then spoke at some length about the GPT4 budget of the Lagos office";
        assert_eq!(
            phrases_of(prompt),
            ["The meeting was opened by Dr", "Ngozi Okafor of ACME", "GPT4", "Lagos"]
        );
    }

    #[test]
    fn there_is_a_limit() {
        let prompt: String = (0..900).map(|number| format!("name{number},")).collect();
        let phrases = phrases_of(&prompt);
        assert_eq!((phrases.len(), phrases[499].as_str()), (MOST_PHRASES, "name499"));
        assert_eq!(phrases_of(&"x".repeat(200)), [""; 0]);
    }
}
