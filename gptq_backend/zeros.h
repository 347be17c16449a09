// The zero points of a GPTQ matrix, by the rules of the program that wrote them.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/checkpoint/folder.h"
#include "gptq_backend/config.h"
#include "gptq_backend/layout.h"

namespace quantplug::gptq {

/// (G, N). gptq_v2 and planar: the field. GPTQModel's v1: it subtracted a constant from whole words, so the constant is
/// added back with its carries (3 bits from 7.0.0 on: field + 1 modulo 8). 3-bit files of GPTQModel before 7.0.0 are
/// recognised by version or, where symmetric, by their words. Everything else: field + 1 modulo 2^bits; fields that
/// AutoGPTQ damaged after a zero point of 0 cannot be told from good ones.
std::vector<uint8_t> read_zeros(const engine::ModelFolder& folder, const Config& config, const Layout& layout);

}  // namespace quantplug::gptq
