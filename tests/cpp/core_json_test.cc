// The JSON tree: what parses, what does not and where the fault is said to be, typed access and its error texts.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/json.h"
#include "core/utf8.h"

namespace pagoda {
namespace {

/// The text of the InvalidArgument that `action` throws, or "nothing was thrown".
template <class Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(Json, parses_every_kind) {
  const Json json = Json::parse(R"( {"a": null, "b": [true, false], "c": -12, "d": 1.5e3, "e": "x", "f": {}, "g": []} )");
  ASSERT_TRUE(json.is_object());
  EXPECT_EQ(json.members().size(), 7u);
  EXPECT_TRUE(json.at("a").is_null());
  EXPECT_TRUE(json.at("b").items()[0].as_bool());
  EXPECT_FALSE(json.at("b").items()[1].as_bool());
  EXPECT_EQ(json.at("c").as_int(), -12);
  EXPECT_EQ(json.at("d").as_double(), 1500.0);
  EXPECT_EQ(json.at("e").as_string(), "x");
  EXPECT_TRUE(json.at("f").members().empty());
  EXPECT_TRUE(json.at("g").items().empty());
  EXPECT_EQ(json.find("h"), nullptr);
}

TEST(Json, keeps_members_in_the_order_of_the_text) {
  std::string order;
  const Json json = Json::parse(R"({"z":1,"a":2,"m":3})");
  for (const Json::Member& member : json.members()) order += member.key;
  EXPECT_EQ(order, "zam");
}

TEST(Json, keeps_64_bit_integers_exactly_and_larger_ones_as_doubles) {
  EXPECT_EQ(Json::parse("9223372036854775807").as_int(), INT64_MAX);
  EXPECT_EQ(Json::parse("-9223372036854775808").as_int(), INT64_MIN);
  EXPECT_EQ(Json::parse("9007199254740993").as_int(), 9007199254740993);
  const Json large = Json::parse("9223372036854775808");
  EXPECT_FALSE(large.is_integer());
  EXPECT_EQ(large.as_double(), 9223372036854775808.0);
  EXPECT_NE(error_of([&] { large.as_int(); }).find("expected an integer of 64 bits"), std::string::npos);
}

TEST(Json, an_integral_float_is_an_integer_and_a_fraction_is_not) {
  EXPECT_EQ(Json::parse("4096.0").as_int(), 4096);
  EXPECT_EQ(Json::parse("1e6").as_int(), 1000000);
  EXPECT_EQ(Json::parse("-0").as_int(), 0);
  EXPECT_EQ(error_of([] { Json::parse("0.5").as_int(); }), "expected an integer of 64 bits, got 0.5");
}

TEST(Json, takes_the_literals_python_writes_for_non_finite_numbers) {
  EXPECT_TRUE(std::isnan(Json::parse("NaN").as_double()));
  EXPECT_EQ(Json::parse("Infinity").as_double(), HUGE_VAL);
  EXPECT_EQ(Json::parse("[-Infinity]").items()[0].as_double(), -HUGE_VAL);
  EXPECT_NE(error_of([] { Json::parse("Infinity").as_int(); }), "nothing was thrown");
}

TEST(Json, decodes_escapes_and_surrogate_pairs) {
  EXPECT_EQ(Json::parse(R"("\"\\\/\b\f\n\r\t")").as_string(), "\"\\/\b\f\n\r\t");
  EXPECT_EQ(Json::parse(R"("\u0041\u00e9\u4e2d\ud83d\uDE00")").as_string(), "A\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80");
  EXPECT_EQ(Json::parse(R"("a\u0000b")").as_string(), std::string("a\0b", 3));
  EXPECT_EQ(Json::parse("\"\xf4\x8f\xbf\xbf \xed\x9f\xbf\"").as_string(), "\xf4\x8f\xbf\xbf \xed\x9f\xbf");
}

TEST(Json, the_last_of_equal_keys_wins_at_the_place_of_the_first) {
  const Json json = Json::parse(R"({"a":1,"b":2,"a":3,"c":4,"a":5})");
  ASSERT_EQ(json.members().size(), 3u);
  EXPECT_EQ(json.members()[0].key, "a");
  EXPECT_EQ(json.members()[0].value.as_int(), 5);
  EXPECT_EQ(json.members()[2].key, "c");
}

TEST(Json, equal_keys_are_refused_on_request) {
  Json::ParseOptions options;
  options.source = "header";
  options.refuse_duplicate_keys = true;
  EXPECT_EQ(error_of([&] { Json::parse(R"({"x":1,"y":2,"x":3})", options); }),
            "header: byte 13: the key \"x\" appears twice, first at byte 1");
  EXPECT_EQ(Json::parse(R"({"x":{"x":1}})", options).at("x").get_int("x"), 1);
}

TEST(Json, nesting_ends_at_64) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_TRUE(Json::parse(nested(64)).is_array());
  EXPECT_EQ(error_of([&] { Json::parse(nested(65)); }), "JSON: byte 64: nested deeper than 64");
  EXPECT_EQ(error_of([&] { Json::parse(std::string(1000000, '[')); }), "JSON: byte 64: nested deeper than 64");
}

TEST(Json, the_number_of_values_is_bounded) {
  Json::ParseOptions options;
  options.max_values = 4;
  EXPECT_EQ(Json::parse("[1,2,3]", options).items().size(), 3u);
  EXPECT_EQ(error_of([&] { Json::parse("[1,2,3,4]", options); }), "JSON: byte 7: more than 4 values");
}

struct BadText {
  std::string text;
  std::string message;
};

TEST(Json, refuses_malformed_text_with_the_offset_of_the_fault) {
  const std::vector<BadText> cases = {
      {"", "byte 0: expected a value, found the end of the text"},
      {"  ", "byte 2: expected a value, found the end of the text"},
      {"\xef\xbb\xbf{}", "byte 0: the text begins with a byte order mark"},
      {"nul", "byte 0: expected a value, found 'n'"},
      {"True", "byte 0: expected a value, found 'T'"},
      {"{} x", "byte 3: the document ended, but 'x' follows"},
      {std::string("{}\0", 3), "byte 2: the document ended, but byte 0x00 follows"},
      {"[1 2]", "byte 3: expected ',' or ']'"},
      {"[1,]", "byte 3: expected a value, found ']'"},
      {"[1", "byte 2: expected ',' or ']' after an array item, found the end of the text"},
      {"{\"a\" 1}", "byte 5: expected ':' after the key \"a\", found '1'"},
      {"{\"a\":1,}", "byte 7: expected a key in quotes, found '}'"},
      {"{a:1}", "byte 1: expected a key in quotes, found 'a'"},
      {"{\"a\":1", "byte 6: expected ',' or '}'"},
      {"{\"a\":1]", "byte 6: expected ',' or '}' after a member, found ']'"},
      {"\"abc", "byte 0: a string without closing quote"},
      {"\"a\nb\"", "byte 2: a control character in a string: byte 0x0a"},
      {R"("\x41")", "byte 1: unknown escape, a backslash followed by 'x'"},
      {"\"\\", "byte 1: unknown escape, a backslash followed by the end of the text"},
      {R"("\u12g4")", "byte 1: \\u must be followed by four hexadecimal digits"},
      {R"("\u12")", "byte 1: \\u must be followed by four hexadecimal digits"},
      {R"("\u-123")", "byte 1: \\u must be followed by four hexadecimal digits"},
      {R"("\ud800")", "byte 1: a surrogate without its other half"},
      {R"("\udc00")", "byte 1: a surrogate without its other half"},
      {R"("\ud800\u0041")", "byte 1: a high surrogate that no low surrogate follows"},
      {"\"\x80\"", "byte 1: not UTF-8: byte 0x80"},
      {"\"a\xc0\xaf\"", "byte 2: not UTF-8: byte 0xc0"},
      {"\"\xe0\x80\x80\"", "byte 1: not UTF-8: byte 0xe0"},
      {"\"\xed\xa0\x80\"", "byte 1: not UTF-8: byte 0xed"},
      {"\"\xf4\x90\x80\x80\"", "byte 1: not UTF-8: byte 0xf4"},
      {"\"\xf5\x80\x80\x80\"", "byte 1: not UTF-8: byte 0xf5"},
      {"\"\xe4\xb8", "byte 1: not UTF-8: byte 0xe4"},
      {"[\xff]", "byte 1: expected a value, found byte 0xff"},
      {"-", "byte 0: expected a value, found '-'"},
      {"+1", "byte 0: expected a value, found '+'"},
      {".5", "byte 0: expected a value, found '.'"},
      {"01", "byte 0: a number with a leading zero"},
      {"-00", "byte 0: a number with a leading zero"},
      {"1.", "byte 2: expected a digit after the decimal point, found the end of the text"},
      {"[1.e3]", "byte 3: expected a digit after the decimal point, found 'e'"},
      {"1e", "byte 2: expected a digit in the exponent"},
      {"1e+", "byte 3: expected a digit in the exponent"},
      {"1e999", "byte 0: a number beyond the range of a double"},
      {"0x10", "byte 1: the document ended, but 'x' follows"},
  };
  for (const BadText& bad : cases) {
    const std::string error = error_of([&] { Json::parse(bad.text); });
    EXPECT_TRUE(error.starts_with("JSON: " + bad.message)) << bad.text << "\n  gave " << error;
  }
}

TEST(Json, every_prefix_of_a_document_is_refused) {
  const std::string text = R"({"a": [1, -2.5e3, "x\u00e9\n", {"b": null}], "c": {"d": true}})";
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_NE(error_of([&] { Json::parse(text.substr(0, size)); }), "nothing was thrown") << size;
  }
  EXPECT_TRUE(Json::parse(text).is_object());
}

TEST(Json, one_changed_byte_never_does_worse_than_an_error) {
  const std::string text = R"({"a":[1,-2.5e3,"x\ud83d\ude00",{"b":null,"a":NaN}],"c":{"d":true}})";
  int refused = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    for (int byte = 0; byte < 256; ++byte) {
      std::string changed = text;
      changed[i] = static_cast<char>(byte);
      refused += error_of([&] { Json::parse(changed); }) != "nothing was thrown";
    }
  }
  EXPECT_GT(refused, 10000);
}

TEST(Json, typed_getters_name_the_path_of_the_key) {
  const Json json = Json::parse(R"({"text_config": {"rope": {"factor": "big"}, "layers": [{"heads": 0.5}], "eps": null}})");
  const Json& config = json.at("text_config");
  EXPECT_EQ(error_of([&] { config.at("rope").get_double("factor"); }),
            "text_config.rope.factor: expected a number, got the string \"big\"");
  EXPECT_EQ(error_of([&] { config.at("layers").items()[0].get_int("heads"); }),
            "text_config.layers[0].heads: expected an integer of 64 bits, got 0.5");
  EXPECT_EQ(error_of([&] { config.at("rope").get_string("type"); }), "text_config.rope.type is missing");
  EXPECT_EQ(error_of([&] { config.get_double("eps"); }), "text_config.eps: expected a number, got null");
  EXPECT_EQ(error_of([&] { config.get_bool("layers"); }), "text_config.layers: expected true or false, got an array of 1");
  EXPECT_EQ(error_of([&] { json.get_string("text_config"); }), "text_config: expected a string, got an object of 3");
  EXPECT_EQ(error_of([] { Json::parse("[1]").at("x"); }), "expected an object, got an array of 1");
}

TEST(Json, a_default_stands_in_for_an_absent_or_null_member_only) {
  const Json json = Json::parse(R"({"i": 3, "n": null, "s": "text", "b": true, "d": 2})");
  EXPECT_EQ(json.get_int("i", 7), 3);
  EXPECT_EQ(json.get_int("n", 7), 7);
  EXPECT_EQ(json.get_int("absent", 7), 7);
  EXPECT_EQ(json.get_double("d", 0.5), 2.0);
  EXPECT_EQ(json.get_double("n", 0.5), 0.5);
  EXPECT_TRUE(json.get_bool("b", false));
  EXPECT_TRUE(json.get_bool("absent", true));
  EXPECT_EQ(json.get_string("s", "x"), "text");
  EXPECT_EQ(json.get_string("absent", "x"), "x");
  EXPECT_EQ(error_of([&] { json.get_int("s", 7); }), "s: expected an integer of 64 bits, got the string \"text\"");
}

TEST(Utf8, appended_scalars_are_well_formed) {
  for (uint32_t scalar = 0; scalar <= 0x10ffff; scalar += 37) {
    if (scalar >= 0xd800 && scalar <= 0xdfff) continue;
    std::string text;
    append_utf8(text, scalar);
    ASSERT_EQ(utf8_length(text), text.size()) << scalar;
  }
}

TEST(Utf8, the_valid_prefix_ends_at_the_first_fault) {
  EXPECT_EQ(utf8_valid_prefix("plain"), 5u);
  EXPECT_EQ(utf8_valid_prefix("a\xc3\xa9\xff z"), 3u);
  EXPECT_EQ(utf8_valid_prefix("ab\xe4\xb8"), 2u);
  EXPECT_EQ(utf8_valid_prefix(""), 0u);
}

}  // namespace
}  // namespace pagoda
