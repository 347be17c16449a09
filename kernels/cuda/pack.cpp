#include "kernels/cuda/pack.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/cuda/pack_words.h"
#include "kernels/step.h"

namespace quantplug::kernels {
inline namespace QP_KERNELS_NS {
namespace cuda {
namespace {

constexpr int32_t plain_bits = 16;
constexpr uint64_t max_k_padded = uint64_t(1) << 29;  // 2^24 groups of one row: words of a column block fit 32 bits

int32_t packed_bits(int32_t bits) { return bits == 7 ? 8 : bits; }
uint64_t padded_slabs(const QuantGroup& group) {
    return round_up(count_of(group.rows), uint64_t(slab_rows)) / uint64_t(slab_rows);
}

// The groups of one width, as a section takes them.
struct Width {
    int32_t bits = 0;
    uint64_t slabs = 0;  // of all its groups
    uint64_t n = 0;      // groups
    uint64_t size = 0;   // slabs of every group but the last, which has at most as many; 0: they differ
    uint64_t last = 0;   // slabs of the latest group
    bool ended = false;  // a smaller group came

    void add(uint64_t group_slabs) {
        if (n == 0) size = group_slabs;
        if (ended || group_slabs > size) size = 0;
        ended |= group_slabs < size;
        slabs += group_slabs;
        last = group_slabs;
        ++n;
    }
    int32_t shift() const {
        if (n == 1) return one_group;
        return size != 0 && (size & (size - 1)) == 0 ? __builtin_ctzll(size) : 0;
    }
};

std::vector<Width> widths_of(const std::vector<QuantGroup>& groups) {
    std::vector<Width> widths;
    for (const int32_t bits : {8, 6, 5, 4, 3, 2}) {
        Width width;
        width.bits = bits;
        for (const QuantGroup& group : groups) {
            if (packed_bits(group.bits) == bits) width.add(padded_slabs(group));
        }
        if (width.n > 0) widths.push_back(width);
    }
    return widths;
}

// False: larger than any view can say.
bool add_section(MatrixView& view, const Width& width) {
    const uint64_t rows = round_up(saturating_mul(width.slabs, uint64_t(slab_rows)), uint64_t(section_rows));
    if (rows > max_k_padded || uint64_t(view.k_padded) + rows > max_k_padded) return false;
    Section& section = view.sections[view.n_sections++];
    section.bits = width.bits;
    section.chunk0 = view.n_chunks;
    section.n_chunks = int32_t(rows) / chunk_rows;
    section.group_shift = width.shift();
    section.group0 = view.n_groups;
    section.word0 = view.block_words;
    view.k_padded += int32_t(rows);
    view.n_chunks += section.n_chunks;
    view.block_words += uint32_t(section.n_chunks) * 32 * uint32_t(width.bits);
    view.n_groups += section.group_shift == one_group
                         ? 1
                         : int32_t((uint64_t(section.n_chunks) * 2 + (uint64_t(1) << section.group_shift) - 1) >>
                                   section.group_shift);
    return true;
}

// The even chunk that is nearest to `bits` (chunks times width) from the start.
int32_t chunk_at(const MatrixView& view, uint64_t bits) {
    for (int32_t i = 0; i < view.n_sections; ++i) {
        const Section& section = view.sections[i];
        const uint64_t unit = 2 * uint64_t(section.bits), all = uint64_t(section.n_chunks) / 2 * unit;
        if (bits < all || i + 1 == view.n_sections)
            return section.chunk0 + 2 * int32_t(std::min(bits + unit / 2, all) / unit);
        bits -= all;
    }
    return 0;
}

void set_splits(MatrixView& view, int32_t n_multiprocessors) {
    // Sixteen warps a column block where there are too few blocks to fill the card otherwise. Cards with more than 72
    // multiprocessors have the 96 KB of shared memory that they take. From sizes alone: experts of one layer agree.
    const bool few_blocks = int64_t(view.n_blocks) * 4 <= int64_t(n_multiprocessors) * 5;
    view.n_splits = few_blocks && n_multiprocessors > 72 && view.k >= 2048 ? 16 : 8;
    uint64_t bits = 0;
    for (int32_t i = 0; i < view.n_sections; ++i)
        bits += uint64_t(view.sections[i].n_chunks) * uint64_t(view.sections[i].bits);
    for (int32_t s = 0; s < view.n_splits; ++s)
        view.split_begin[s] = chunk_at(view, bits * uint64_t(s) / uint64_t(view.n_splits));
    for (int32_t s = view.n_splits; s <= max_splits; ++s) view.split_begin[s] = view.n_chunks;
}

// Where the groups of a matrix went.
struct Arrangement {
    std::vector<int32_t> slab0;         // of a source group: its first slab of K'
    std::vector<int32_t> packed_group;  // (n_groups): the source group, -1 where all is padding
};

Arrangement arrange(const std::vector<QuantGroup>& groups, const MatrixView& view) {
    Arrangement out;
    out.slab0.resize(groups.size());
    out.packed_group.assign(size_t(view.n_groups), -1);
    for (int32_t i = 0; i < view.n_sections; ++i) {
        const Section& section = view.sections[i];
        int32_t slab = 0;
        for (size_t g = 0; g < groups.size(); ++g) {
            if (packed_bits(groups[g].bits) != section.bits) continue;
            out.slab0[g] = section.chunk0 * 2 + slab;
            const int32_t end = slab + int32_t(padded_slabs(groups[g]));
            for (int32_t at = slab; at < end; ++at)
                out.packed_group[size_t(section.group0 + (at >> section.group_shift))] = int32_t(g);
            slab = end;
        }
    }
    return out;
}

template <class T>
T* part(uint8_t* image, uint64_t offset) {
    return reinterpret_cast<T*>(image + offset);
}

// gather has been filled: the lists that follow from it.
void invert_gather(const PackPlan& plan, uint8_t* image) {
    const int32_t* gather = part<int32_t>(image, plan.gather);
    int32_t* scatter = part<int32_t>(image, plan.scatter);
    int32_t* padding = part<int32_t>(image, plan.padding);
    for (int32_t row = 0; row < plan.view.k_padded; ++row) {
        if (gather[row] < 0)
            *padding++ = row;
        else
            scatter[gather[row]] = row;
    }
}

void put_bias(const PackPlan& plan, const std::vector<float>& bias, uint8_t* image) {
    if (!bias.empty()) std::memcpy(image + plan.bias, bias.data(), bias.size() * sizeof(float));
}

Status exhausted(const PackPlan& plan) {
    return Status::error(resource_exhausted, "there is no memory for a matrix of " + std::to_string(plan.total) +
                                                 " bytes; take a smaller model, or free memory");
}

}  // namespace

PackPlan plan_pack(const MatrixShape& shape, int32_t n_multiprocessors) {
    PackPlan plan;
    MatrixView& view = plan.view;
    view.k = int32_t(count_of(shape.in_features));
    view.n = int32_t(count_of(shape.out_features));
    view.n_blocks = int32_t((count_of(shape.out_features) + block_columns - 1) / block_columns);
    bool fits = true;
    if (shape.groups.empty()) {
        Width plain;
        plain.bits = plain_bits;
        plain.add(round_up(count_of(shape.in_features), uint64_t(slab_rows)) / uint64_t(slab_rows));
        fits = add_section(view, plain);
    } else {
        for (const Width& width : widths_of(shape.groups)) fits = fits && add_section(view, width);
    }
    view.n_padding = std::max(0, view.k_padded - view.k);
    set_splits(view, n_multiprocessors);
    plan.has_zeros = shape.has_zeros && !shape.groups.empty();
    plan.has_bias = shape.has_bias;

    const auto take = [&](uint64_t& offset, uint64_t bytes) {
        offset = plan.total;
        plan.total = round_up(saturating_add(plan.total, bytes), 256);
    };
    const uint64_t per_group = saturating_mul(count_of(view.n_blocks), saturating_mul(count_of(view.n_groups), 8));
    take(plan.words, saturating_mul(count_of(view.n_blocks), uint64_t(view.block_words) * 4));
    take(plan.scales, saturating_mul(per_group, 4));
    take(plan.zeros, plan.has_zeros ? saturating_mul(per_group, 2) : 0);
    take(plan.bias, plan.has_bias ? count_of(view.n) * 4 : 0);
    take(plan.gather, count_of(view.k_padded) * 4);
    take(plan.scatter, count_of(view.k) * 4);
    take(plan.padding, count_of(view.n_padding) * 4);
    if (!fits) plan.total = UINT64_MAX;
    return plan;
}

MatrixView placed(const PackPlan& plan, uint8_t* base) {
    MatrixView view = plan.view;
    view.words = part<const uint32_t>(base, plan.words);
    view.scales = part<const uint32_t>(base, plan.scales);
    if (plan.has_zeros) view.zeros = part<const uint16_t>(base, plan.zeros);
    if (plan.has_bias) view.bias = part<const float>(base, plan.bias);
    view.gather = part<const int32_t>(base, plan.gather);
    view.scatter = part<const int32_t>(base, plan.scatter);
    view.padding = part<const int32_t>(base, plan.padding);
    return view;
}

Status pack_image(const QuantSource& source, const PackPlan& plan, uint8_t* image) {
    if (Status status = check_quant(source); !status.ok()) return status;
    if (plan.total == UINT64_MAX) return exhausted(plan);
    const MatrixView& view = plan.view;
    clear_image(image, plan.total);
    const Arrangement arrangement = arrange(source.groups, view);

    int32_t* gather = part<int32_t>(image, plan.gather);
    std::fill(gather, gather + view.k_padded, -1);
    int32_t row = 0;
    for (size_t g = 0; g < source.groups.size(); ++g) {
        int32_t* to = gather + int64_t(arrangement.slab0[g]) * slab_rows;
        for (int32_t i = 0; i < source.groups[g].rows; ++i, ++row)
            to[i] = source.perm.empty() ? row : source.perm[size_t(row)];
    }
    invert_gather(plan, image);
    put_bias(plan, source.bias, image);
    put_scales(source, view, arrangement.packed_group, part<uint32_t>(image, plan.scales));
    if (plan.has_zeros) put_zeros(source, view, arrangement.packed_group, part<uint16_t>(image, plan.zeros));
    return put_codes(source, view, arrangement.slab0, arrangement.packed_group, part<uint32_t>(image, plan.words));
}

Status pack_image(const DenseSource& source, const PackPlan& plan, uint8_t* image) {
    if (Status status = check_dense(source); !status.ok()) return status;
    if (plan.total == UINT64_MAX) return exhausted(plan);
    const MatrixView& view = plan.view;
    clear_image(image, plan.total);
    int32_t* gather = part<int32_t>(image, plan.gather);
    for (int32_t row = 0; row < view.k_padded; ++row) gather[row] = row < view.k ? row : -1;
    invert_gather(plan, image);
    put_bias(plan, source.bias, image);
    return put_plain(source, view, part<uint32_t>(image, plan.words), part<uint32_t>(image, plan.scales));
}

}  // namespace cuda
}  // namespace QP_KERNELS_NS
}  // namespace quantplug::kernels
