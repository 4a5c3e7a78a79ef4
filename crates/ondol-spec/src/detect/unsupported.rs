//! Languages that are recognised only to say that their commands must be given.

use super::View;
use crate::model::Language;
use crate::resolve::Note;

/// What was recognised, and the supported language before which Railpack asks for it.
pub(super) fn detect(view: &View) -> Option<(Language, Note)> {
    let root = |end: &'static str| {
        view.root_files()
            .find(|path| path.ends_with(end))
            .map(str::to_owned)
    };
    let of = |files: &[&str]| view.first(files).map(str::to_owned);
    let rows: [(&str, Option<String>, Language); 9] = [
        ("PHP", of(&["composer.json", "index.php"]), Language::Go),
        (
            "Java",
            of(&["pom.xml", "build.gradle", "build.gradle.kts", "gradlew"]),
            Language::Rust,
        ),
        ("Ruby", of(&["Gemfile"]), Language::Python),
        ("Elixir", of(&["mix.exs"]), Language::Python),
        ("Deno", of(&["deno.json", "deno.jsonc"]), Language::Node),
        (
            ".NET",
            root(".csproj")
                .or_else(|| root(".fsproj"))
                .or_else(|| root(".sln")),
            Language::Node,
        ),
        ("Gleam", of(&["gleam.toml"]), Language::Static),
        (
            "C or C++",
            of(&["CMakeLists.txt", "meson.build"]),
            Language::Static,
        ),
        ("a shell script", of(&["start.sh"]), Language::Dockerfile),
    ];
    let (name, file, before) = rows
        .into_iter()
        .find_map(|(name, file, before)| Some((name, file?, before)))?;
    let message = format!("detected {name} ({file}), for which Ondol has no commands of its own");
    let hint =
        "name them in ondol.yaml: `build.install`, `build.commands`, `test` and `service.run`";
    Some((
        before,
        Note::new("unsupported-language", message).hint(hint),
    ))
}
