//! A multipart form with one audio file: fields are bounded and kept, the file streams into the blob store.

use axum::extract::multipart::Field;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::{HeaderMap, StatusCode, header};

use crate::error::ApiError;
use crate::extract::Caller;
use crate::extract::body::{UploadBody, too_large};
use crate::problem::ApiStyle;
use crate::state::{ApiLimits, ApiState};
use crate::upload::{Arriving, StagedAudio};

/// The most fields beside the file.
const MAX_FIELDS: usize = 64;
/// The longest value of a field, in bytes.
const MAX_FIELD_BYTES: usize = 16 * 1024;
/// What a form may have beside the file's content.
const MAX_FORM_OVERHEAD: u64 = (MAX_FIELDS * MAX_FIELD_BYTES) as u64 + 1024 * 1024;

/// The name of the file's field.
const FILE: &str = "file";
/// Fields of the contract whose time has not come.
const NOT_YET: [&str; 2] = ["audio_url", "webhook_url"];

/// A form, with its audio written but not yet visible.
pub(crate) struct Form {
    /// The fields beside the file.
    pub(crate) fields: Fields,
    /// The file.
    pub(crate) audio: StagedAudio,
}

/// The fields beside the file, in order; every one is known.
#[derive(Debug, Default)]
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    /// From names and values.
    pub(crate) fn new(fields: Vec<(String, String)>) -> Self {
        Self(fields)
    }

    /// The value of a field that may be given once; `None` when it is absent or empty.
    ///
    /// # Errors
    /// 400 when it is given twice.
    pub(crate) fn one(&self, name: &str) -> Result<Option<&str>, ApiError> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() {
            return Err(ApiError::invalid(
                "repeated_field",
                name,
                format!("`{name}` is given more than once"),
            ));
        }
        Ok(first.map(str::trim).filter(|value| !value.is_empty()))
    }

    /// The values of a field that may be given many times, with or without `[]` after its name.
    pub(crate) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let wanted = move |given: &str| given.strip_suffix("[]").unwrap_or(given) == name;
        self.0.iter().filter(move |(given, _)| wanted(given)).map(|(_, value)| value.as_str())
    }
}

/// What a body of unknown length is expected to take of the disk. One that takes more is refused when the disk is full.
const UNDECLARED: u64 = 8 * 1024 * 1024;

/// Reads the form of `request`. Nothing stays behind when it fails or is dropped.
///
/// # Errors
/// What the client did wrong, or why the blob store could not take the file.
pub(crate) async fn read(
    state: &ApiState,
    request: Request,
    style: ApiStyle,
    known: &[&str],
) -> Result<Form, ApiError> {
    let declared = check_head(request.headers(), style, &state.limits)?;
    let at_most = declared.unwrap_or(ceiling(&state.limits));
    // Few come near the ceiling. Were each counted so, some hundred at once would be refused on a disk that is half empty.
    let expected = state.disk_guard().admit(declared.unwrap_or(UNDECLARED.min(at_most))).await?;
    let holder = request.extensions().get::<Caller>().ok_or_else(ApiError::internal)?.holder.clone();
    let permit = state.stages().upload(&holder).await?;
    // Put there by `observe`, which also gives the request its bounds.
    let body = request.extensions().get::<UploadBody>().cloned().ok_or_else(ApiError::internal)?;
    body.declared(declared);
    let mut reader = Reader { state, body: &body, arriving: Arriving { expected, permit }, style, known };
    let multipart = Multipart::from_request(request, state).await.map_err(|_| reader.broken())?;
    reader.read(multipart).await
}

/// The most bytes of a whole request body.
pub(crate) fn ceiling(limits: &ApiLimits) -> u64 {
    limits.max_upload_bytes.saturating_add(MAX_FORM_OVERHEAD)
}

/// What the head alone tells: the length of the body, where it does.
fn check_head(headers: &HeaderMap, style: ApiStyle, limits: &ApiLimits) -> Result<Option<u64>, ApiError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let media_type =
        text(header::CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if style == ApiStyle::Native && media_type.eq_ignore_ascii_case("application/json") {
        return Err(not_yet("audio_url"));
    }
    if !media_type.eq_ignore_ascii_case("multipart/form-data") {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "multipart_expected",
            "send the audio as field `file` of a multipart/form-data body",
        ));
    }
    match text(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok()) {
        Some(length) if length > ceiling(limits) => Err(too_large(limits.max_upload_bytes)),
        length => Ok(length),
    }
}

fn not_yet(field: &str) -> ApiError {
    ApiError::invalid(
        "unsupported_option",
        field,
        format!(
            "`{field}` is not supported here yet; send the audio as field `file` of a multipart/form-data body"
        ),
    )
}

/// Reads one form.
struct Reader<'a> {
    state: &'a ApiState,
    body: &'a UploadBody,
    arriving: Arriving<'a>,
    style: ApiStyle,
    known: &'a [&'a str],
}

impl Reader<'_> {
    async fn read(&mut self, mut multipart: Multipart) -> Result<Form, ApiError> {
        let mut fields = Vec::new();
        let mut audio = None;
        let mut seen = 0;
        loop {
            self.body.between_fields();
            let Some(field) = multipart.next_field().await.map_err(|_| self.broken())? else { break };
            self.body.in_field();
            if self.is_ignored(&field) {
                self.drain(field).await?;
                continue;
            }
            seen += 1;
            if seen > MAX_FIELDS {
                return Err(ApiError::invalid(
                    "too_many_fields",
                    FILE,
                    format!("a form has at most {MAX_FIELDS} fields"),
                ));
            }
            let name = field.name().unwrap_or_default().to_owned();
            if name == FILE {
                if audio.is_some() {
                    return Err(ApiError::invalid(
                        "repeated_file",
                        FILE,
                        "`file` is given more than once; one job takes one file",
                    ));
                }
                let Self { state, body, arriving, .. } = self;
                audio = Some(StagedAudio::receive(state, field, arriving, || broken(state, body)).await?);
            } else {
                let value = self.value(&name, field).await?;
                fields.push((name, value));
            }
        }
        let audio =
            audio.ok_or_else(|| ApiError::invalid("missing_file", FILE, "the form has no field `file`"))?;
        Ok(Form { fields: Fields::new(fields), audio })
    }

    fn knows(&self, name: &str) -> bool {
        self.known.contains(&name.strip_suffix("[]").unwrap_or(name))
    }

    /// Whether the field is one that OpenAI's routes ignore. Its length and the number of such fields are bounded by the
    /// body's alone.
    fn is_ignored(&self, field: &Field<'_>) -> bool {
        let name = field.name().unwrap_or_default();
        self.style == ApiStyle::OpenAi && name != FILE && !self.knows(name)
    }

    async fn drain(&self, mut field: Field<'_>) -> Result<(), ApiError> {
        while field.chunk().await.map_err(|_| self.broken())?.is_some() {}
        Ok(())
    }

    /// The value of a field that this route knows.
    async fn value(&self, name: &str, field: Field<'_>) -> Result<String, ApiError> {
        if !self.knows(name) {
            if NOT_YET.contains(&name) {
                return Err(not_yet(name));
            }
            let name: String = name.chars().take(64).collect();
            let detail = format!("there is no option `{name}`; the options are: {}", self.known.join(", "));
            return Err(ApiError::invalid("unknown_field", name, detail));
        }
        let value = self.bounded(name, field).await?;
        String::from_utf8(value)
            .map_err(|_| ApiError::invalid("invalid_option", name, format!("`{name}` is not UTF-8 text")))
    }

    async fn bounded(&self, name: &str, mut field: Field<'_>) -> Result<Vec<u8>, ApiError> {
        let mut value = Vec::new();
        while let Some(piece) = field.chunk().await.map_err(|_| self.broken())? {
            if value.len() + piece.len() > MAX_FIELD_BYTES {
                let name: String = name.chars().take(64).collect();
                let detail = format!("`{name}` is longer than {MAX_FIELD_BYTES} bytes");
                return Err(ApiError::invalid("field_too_long", name, detail));
            }
            value.extend_from_slice(&piece);
        }
        Ok(value)
    }

    /// Why the body could not be read on.
    fn broken(&self) -> ApiError {
        broken(self.state, self.body)
    }
}

fn broken(state: &ApiState, body: &UploadBody) -> ApiError {
    body.error(state.limits.max_upload_bytes)
}
