"""Sparse products against scipy's, over more rows than a block has, with empty rows."""

from __future__ import annotations

import numpy as np
import scipy.sparse
import torch

from stego_dist.crf.sparse import ROWS, Block, make_sparse


def test_products_of_several_blocks():
    rows, columns = 2 * ROWS + 3, 50
    wanted = scipy.sparse.random(rows, columns, 0.03, "csr", np.float32, np.random.default_rng(0))
    assert (np.diff(wanted.indptr) == 0).any()
    given = [torch.from_numpy(array.copy()) for array in (wanted.indptr, wanted.indices, wanted.data)]
    matrix = make_sparse(*given, size=(rows, columns))
    assert [block.rows.stop for block in matrix.blocks] == [ROWS, 2 * ROWS, rows]
    dense = torch.randn(columns, 7, generator=torch.Generator().manual_seed(0))
    out = torch.full((rows, 7), torch.nan)
    matrix.put_product(out, dense)
    np.testing.assert_allclose(out, wanted @ dense.numpy(), atol=1e-5)
    for block in matrix.blocks:
        block.add_product(out[block.rows], dense)
    np.testing.assert_allclose(out, 2 * (wanted @ dense.numpy()), atol=1e-5)
    csr = torch.sparse_csr_tensor(*given, size=(rows, columns))
    elsewhere = Block(slice(0, rows), *given, csr)  # as on other devices than the CPU
    elsewhere.add_product(out, dense)
    np.testing.assert_allclose(out, 3 * (wanted @ dense.numpy()), atol=1e-5)
    elsewhere.put_product(out, dense)
    np.testing.assert_allclose(out, wanted @ dense.numpy(), atol=1e-5)
    matrix.values.mul_(3)  # blocks see it
    matrix.put_product(out, dense)
    np.testing.assert_allclose(out, 3 * (wanted @ dense.numpy()), atol=1e-5)
