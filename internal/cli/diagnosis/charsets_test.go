package diagnosis

import "testing"

func TestMangledTextIsFound(t *testing.T) {
	// What becomes of ð, ÿ and similar characters follows from the character
	// sets' tables.
	const good, latin1 = `{"text":"Zoë, naïve"}`, "{\"text\":\"Zo\xeb, na\xefve\"}"
	const emoji = `{"text":"ok 😀"}`
	runAll(t, []diagnosisTest{
		{name: "read as Latin-1", signed: good, body: `{"text":"ZoÃ«, naÃ¯ve"}`, want: []string{"before their UTF-8 was read as Latin-1 and encoded again, made", "mangled on the way", "Read the body as bytes"}},
		{name: "read as Latin-1 twice", signed: good, body: "{\"text\":\"ZoÃ\u0083Â«, naÃ\u0083Â¯ve\"}", want: []string{"was twice read as Latin-1 and encoded again, made"}},
		{name: "read as Windows-1252", signed: emoji, body: `{"text":"ok ðŸ˜€"}`, want: []string{"before their UTF-8 was read as Windows-1252 and encoded again, made"}},
		{name: "read as Windows-1252 twice", signed: `{"text":"’"}`, body: `{"text":"Ã¢â‚¬â„¢"}`, want: []string{"was twice read as Windows-1252 and encoded again, made"}},
		{name: "read as a Windows console does", signed: good, body: `{"text":"Zo├½, na├»ve"}`, want: []string{"read as code page 437 and encoded again, made"}},
		{name: "read as Latin-1, escaped", signed: `{"text":"Zo\u00eb"}`, body: `{"text":"Zo\u00c3\u00ab"}`, want: []string{"before their UTF-8 was read as Latin-1 and encoded again, made"}},
		{name: "read as Latin-1 and escaped", signed: `{"text":"Zoë"}`, body: `{"text":"Zo\u00c3\u00ab"}`, want: []string{"read as Latin-1", "made"}},
		{name: "read as Latin-1, with a newline", signed: good, body: `{"text":"ZoÃ«, naÃ¯ve"}` + "\n", want: []string{"read as Latin-1", "without white space at the end"}},
		{name: "signed mangled", signed: `{"text":"ZoÃ«, naÃ¯ve"}`, body: good, want: []string{"with their UTF-8 read as Latin-1 and encoded again, made", "Sign the UTF-8 bytes that are sent"}},
		{name: "signed mangled, Windows", signed: `{"text":"ok ðŸ˜€"}`, body: emoji, want: []string{"with their UTF-8 read as Windows-1252 and encoded again, made"}},
		{name: "converted to Latin-1", signed: good, body: latin1, want: []string{"in UTF-8, converted from Latin-1, made", "is not UTF-8"}},
		{name: "converted to Windows-1252", signed: `{"text":"10 €"}`, body: "{\"text\":\"10 \x80\"}", want: []string{"in UTF-8, converted from Windows-1252, made"}},
		{name: "signed in Latin-1", signed: latin1, body: good, want: []string{"these bytes in Latin-1, made", "The signer has encoded the text as Latin-1"}},
		{name: "signed in Windows-1252", signed: "{\"text\":\"10 \x80\"}", body: `{"text":"10 €"}`, want: []string{"these bytes in Windows-1252, made"}},
	})
}

func TestLostCharactersAreFound(t *testing.T) {
	const good = `{"text":"Zoë ☃ 😀"}`
	runAll(t, []diagnosisTest{
		{name: "in Latin-1, as Java loses them", signed: "{\"text\":\"Zo\xeb ? ?\"}", body: good, want: []string{"in Latin-1, with a ? for each character that it lacks, made", "loses characters"}},
		{name: "in ASCII, as Java loses them", signed: `{"text":"Zo? ? ?"}`, body: good, want: []string{"in ASCII, with a ? for each other character, made"}},
		{name: "in ASCII, as .NET loses them", signed: `{"text":"Zo? ? ??"}`, body: good, want: []string{"in ASCII, with ?? for each emoji"}},
		{name: "bytes read as ASCII", signed: "{\"text\":\"Zo\uFFFD\uFFFD \uFFFD\uFFFD\uFFFD \uFFFD\uFFFD\uFFFD\uFFFD\"}", body: good, want: []string{"in ASCII, with U+FFFD for each byte"}},
		{name: "emoji lost by MySQL", signed: `{"text":"Zoë ☃ ????"}`, body: good, want: []string{"with ???? for each emoji"}},
		{name: "emoji lost", signed: `{"text":"Zoë ☃ ?"}`, body: good, want: []string{"with a ? for each emoji"}},
		{name: "CESU-8", signed: "{\"text\":\"Zoë ☃ \xed\xa0\xbd\xed\xb8\x80\"}", body: good, want: []string{"CESU-8"}},
		{name: "not UTF-8", signed: "{\"text\":\"Zo\uFFFD\"}", body: "{\"text\":\"Zo\xeb\"}", want: []string{"with U+FFFD for each byte that is not UTF-8, made", "lost those bytes"}},

		// Characters that were lost on the way can't be restored, but the loss
		// can be seen.
		{name: "lost on the way, U+FFFD", signed: good, body: "{\"text\":\"Zo\uFFFD\"}", want: []string{"secret is wrong, or the bytes were changed", "replacement characters (U+FFFD)", "Read the body as bytes"}},
		{name: "lost on the way, U+FFFD escaped", signed: good, body: `{"text":"Zo\ufffd"}`, want: []string{"replacement characters (U+FFFD)"}},
		{name: "lost on the way, ?", signed: `{"text":"naïve"}`, body: `{"text":"na?ve"}`, want: []string{"question marks where none belong", "Read the body as bytes"}},
		{name: "lost on the way, ????", signed: `{"text":"😀"}`, body: `{"text":"????"}`, want: []string{"question marks where none belong"}},
	})
}
