// The JSON parser: recursive descent over a string view, bounded in depth and in the number of values. Called through
// Json::parse.
#include <algorithm>
#include <charconv>
#include <limits>
#include <numeric>
#include <utility>

#include "core/check.h"
#include "core/json.h"
#include "core/utf8.h"

namespace pagoda {

class JsonParser {
 public:
  JsonParser(std::string_view text, const Json::ParseOptions& options) : text_(text), options_(options) {}

  Json document() {
    if (text_.starts_with("\xef\xbb\xbf")) fail(0, "the text begins with a byte order mark, which JSON does not allow");
    Json root = value(0);
    skip_space();
    if (at_ < text_.size()) fail(at_, str("the document ended, but ", shown(at_), " follows"));
    return root;
  }

 private:
  static constexpr int kMaxDepth = 64;

  [[noreturn]] void fail(size_t offset, const std::string& what) const {
    throw InvalidArgument(str(options_.source, ": byte ", offset, ": ", what));
  }

  std::string shown(size_t offset) const {
    if (offset >= text_.size()) return "the end of the text";
    const auto byte = static_cast<unsigned char>(text_[offset]);
    if (byte >= 0x20 && byte < 0x7f) return str("'", text_[offset], "'");
    constexpr char kHex[] = "0123456789abcdef";
    return str("byte 0x", kHex[byte >> 4], kHex[byte & 15]);
  }

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) ++at_;
  }

  bool accept(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Json value(int depth) {
    skip_space();
    if (++num_values_ > options_.max_values) fail(at_, str("more than ", options_.max_values, " values"));
    const char first = at_ < text_.size() ? text_[at_] : '\0';
    Json result;
    if (first == '{' || first == '[') {
      if (depth == kMaxDepth) fail(at_, str("nested deeper than ", kMaxDepth));
      return first == '{' ? object(depth) : array(depth);
    }
    if (first == '"') {
      result.value_ = string();
    } else if (accept("true")) {
      result.value_ = true;
    } else if (accept("false")) {
      result.value_ = false;
    } else if (accept("NaN")) {
      result.value_ = std::numeric_limits<double>::quiet_NaN();
    } else if (accept("Infinity")) {
      result.value_ = std::numeric_limits<double>::infinity();
    } else if (accept("-Infinity")) {
      result.value_ = -std::numeric_limits<double>::infinity();
    } else if (!accept("null")) {
      number(result);
    }
    return result;
  }

  Json array(int depth) {
    const size_t path_size = path_.size();
    std::vector<Json> items;
    ++at_;
    skip_space();
    if (!accept("]")) {
      do {
        path_ += str("[", items.size(), "]");
        items.push_back(value(depth + 1));
        path_.resize(path_size);
        skip_space();
      } while (accept(","));
      if (!accept("]")) fail(at_, str("expected ',' or ']' after an array item, found ", shown(at_)));
    }
    Json result;
    result.value_ = std::move(items);
    return result;
  }

  Json object(int depth) {
    const size_t path_size = path_.size();
    Json::Object object;
    object.path = path_;
    std::vector<size_t> key_offsets;
    ++at_;
    skip_space();
    if (!accept("}")) {
      do {
        skip_space();
        if (at_ >= text_.size() || text_[at_] != '"') fail(at_, str("expected a key in quotes, found ", shown(at_)));
        key_offsets.push_back(at_);
        std::string key = string();
        skip_space();
        if (!accept(":")) fail(at_, str("expected ':' after the key \"", key, "\", found ", shown(at_)));
        path_ += (path_.empty() ? "" : ".") + key;
        Json child = value(depth + 1);
        path_.resize(path_size);
        object.members.push_back({std::move(key), std::move(child)});
        skip_space();
      } while (accept(","));
      if (!accept("}")) fail(at_, str("expected ',' or '}' after a member, found ", shown(at_)));
      settle_duplicates(object.members, key_offsets);
    }
    Json result;
    result.value_ = std::move(object);
    return result;
  }

  /// Equal keys: refused, or the last value moves to the first one's place and the others go.
  void settle_duplicates(std::vector<Json::Member>& members, const std::vector<size_t>& key_offsets) const {
    std::vector<size_t> order(members.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return members[a].key < members[b].key; });
    std::vector<bool> drop(members.size(), false);
    bool any = false;
    for (size_t begin = 0, end = 0; begin < order.size(); begin = end) {
      for (end = begin + 1; end < order.size() && members[order[end]].key == members[order[begin]].key; ++end) {
        if (options_.refuse_duplicate_keys) {
          fail(key_offsets[order[end]],
               str("the key \"", members[order[end]].key, "\" appears twice, first at byte ", key_offsets[order[begin]]));
        }
        drop[order[end]] = any = true;
      }
      if (end - begin > 1) members[order[begin]].value = std::move(members[order[end - 1]].value);
    }
    if (!any) return;
    size_t kept = 0;
    for (size_t i = 0; i < members.size(); ++i) {
      if (drop[i]) continue;
      if (kept != i) members[kept] = std::move(members[i]);
      ++kept;
    }
    members.resize(kept);
  }

  std::string string() {
    const size_t opening = at_++;
    std::string out;
    while (true) {
      if (at_ >= text_.size()) fail(opening, "a string without closing quote");
      const char c = text_[at_];
      if (c == '"') break;
      if (c == '\\') {
        escape(out);
        continue;
      }
      if (static_cast<unsigned char>(c) < 0x20) fail(at_, str("a control character in a string: ", shown(at_)));
      const size_t length = utf8_length(text_.substr(at_, 4));
      if (length == 0) fail(at_, str("not UTF-8: ", shown(at_)));
      out.append(text_, at_, length);
      at_ += length;
    }
    ++at_;
    return out;
  }

  void escape(std::string& out) {
    const size_t begin = at_++;
    const char kind = at_ < text_.size() ? text_[at_] : '\0';
    constexpr std::string_view kNames = "\"\\/bfnrt";
    constexpr std::string_view kBytes = "\"\\/\b\f\n\r\t";
    if (const size_t i = kNames.find(kind); kind != '\0' && i != std::string_view::npos) {
      ++at_;
      out += kBytes[i];
      return;
    }
    if (kind != 'u') fail(begin, str("unknown escape, a backslash followed by ", shown(begin + 1)));
    ++at_;
    uint32_t scalar = hex4(begin);
    if (scalar >= 0xd800 && scalar < 0xdc00 && accept("\\u")) {
      const uint32_t low = hex4(begin);
      if (low < 0xdc00 || low > 0xdfff) fail(begin, "a high surrogate that no low surrogate follows");
      scalar = 0x10000 + ((scalar - 0xd800) << 10) + (low - 0xdc00);
    }
    if (scalar >= 0xd800 && scalar <= 0xdfff) fail(begin, "a surrogate without its other half");
    append_utf8(out, scalar);
  }

  uint32_t hex4(size_t escape_begin) {
    uint32_t value = 0;
    const std::string_view digits = text_.substr(at_, 4);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    if (error != std::errc{} || end != digits.data() + 4) fail(escape_begin, "\\u must be followed by four hexadecimal digits");
    at_ += 4;
    return value;
  }

  size_t digits(size_t from) const {
    while (from < text_.size() && text_[from] >= '0' && text_[from] <= '9') ++from;
    return from;
  }

  void number(Json& result) {
    const size_t begin = at_;
    size_t end = begin + (text_.substr(begin, 1) == "-" ? 1 : 0);
    const size_t first_digit = end;
    end = digits(end);
    if (end == first_digit) fail(begin, str("expected a value, found ", shown(begin)));
    if (text_[first_digit] == '0' && end > first_digit + 1) fail(begin, "a number with a leading zero");
    bool integral = true;
    if (text_.substr(end, 1) == ".") {
      integral = false;
      const size_t from = ++end;
      if ((end = digits(from)) == from) fail(from, str("expected a digit after the decimal point, found ", shown(from)));
    }
    if (text_.substr(end, 1) == "e" || text_.substr(end, 1) == "E") {
      integral = false;
      const char sign = end + 1 < text_.size() ? text_[end + 1] : '\0';
      const size_t from = end + (sign == '+' || sign == '-' ? 2 : 1);
      if ((end = digits(from)) == from) fail(from, str("expected a digit in the exponent, found ", shown(from)));
    }
    at_ = end;
    int64_t whole = 0;
    if (integral && std::from_chars(&text_[begin], text_.data() + end, whole).ec == std::errc{}) {
      result.value_ = whole;
      return;
    }
    double real = 0;
    if (std::from_chars(&text_[begin], text_.data() + end, real).ec != std::errc{})
      fail(begin, "a number beyond the range of a double");
    result.value_ = real;
  }

  std::string_view text_;
  const Json::ParseOptions& options_;
  size_t at_ = 0;
  size_t num_values_ = 0;
  std::string path_;  // of the value being parsed
};

Json Json::parse(std::string_view text, const ParseOptions& options) { return JsonParser(text, options).document(); }

}  // namespace pagoda
