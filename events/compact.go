package events

import (
	"unicode/utf16"
	"unicode/utf8"
)

// compact appends a scanned text without the white space between tokens and
// with only the escapes that JSON needs, as JSON.stringify writes it. Numbers
// keep their form.
func compact(dst, raw []byte) []byte {
	for i := 0; i < len(raw); {
		switch c := raw[i]; c {
		case ' ', '\t', '\n', '\r':
			i++
		case '"':
			end := i + 1
			for raw[end] != '"' {
				if raw[end] == '\\' {
					end++
				}
				end++
			}
			dst = append(dst, '"')
			dst = compactString(dst, raw[i+1:end])
			dst = append(dst, '"')
			i = end + 1
		default:
			dst = append(dst, c)
			i++
		}
	}
	return dst
}

// compactString appends the inside of a string.
func compactString(dst, raw []byte) []byte {
	for i := 0; i < len(raw); {
		switch {
		case raw[i] != '\\':
			dst = append(dst, raw[i])
			i++
		case raw[i+1] == '/':
			dst = append(dst, '/')
			i += 2
		case raw[i+1] != 'u':
			dst = append(dst, raw[i], raw[i+1])
			i += 2
		default:
			r, _ := hex4(raw[i+2:])
			i += 6
			if utf16.IsSurrogate(r) { // its other half follows: it was scanned
				low, _ := hex4(raw[i+2:])
				r = utf16.DecodeRune(r, low)
				i += 6
			}
			dst = appendRune(dst, r)
		}
	}
	return dst
}

// short are the control characters that have an escape of two characters.
var short = map[rune]byte{'\b': 'b', '\f': 'f', '\n': 'n', '\r': 'r', '\t': 't', '"': '"', '\\': '\\'}

func appendRune(dst []byte, r rune) []byte {
	const digits = "0123456789abcdef"
	if c, ok := short[r]; ok {
		return append(dst, '\\', c)
	}
	if r < ' ' {
		return append(dst, '\\', 'u', '0', '0', digits[r>>4], digits[r&15])
	}
	return utf8.AppendRune(dst, r)
}

// needless tells that an escape \uXXXX can be written shorter.
func needless(r rune) bool {
	_, ok := short[r]
	return ok || r >= ' '
}
