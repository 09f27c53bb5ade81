//! Matrices in columns: where bytes are, and that they are the same matrix as in tiles.

use super::*;

/// The formats that have columns, with their groups.
fn layouts(rows: usize, cols: usize) -> Vec<TileLayout> {
    let dtypes = [DType::Int4, DType::Int8].into_iter();
    let groups = dtypes.flat_map(|dtype| dtype.groups().iter().map(move |&group| (dtype, group)));
    groups.map(|(dtype, group)| TileLayout::new(dtype, rows, cols, group).unwrap()).collect()
}

/// The tiles of a matrix of `weights`, and the matrix in tiles.
fn in_tiles(layout: &TileLayout) -> (Vec<Vec<u8>>, Vec<u8>) {
    let weights = weights(layout.rows * layout.cols);
    let mut matrix = vec![0; layout.total_bytes()];
    let tiles: Vec<Vec<u8>> = weights
        .chunks(TILE_ROWS * layout.cols)
        .map(|rows| encode(layout, &padded(layout, rows)))
        .collect();
    for (t, tile) in tiles.iter().enumerate() {
        place_tile(layout, tile, t, &mut matrix);
    }
    (tiles, matrix)
}

#[test]
fn columns_hold_the_same_matrix() {
    for (rows, cols) in [(1, 1), (40, 100), (128, 64), (300, 257)] {
        for layout in layouts(rows, cols) {
            let (tiles, matrix) = in_tiles(&layout);
            let columns = layout.by_columns().unwrap();
            let mut by_columns = vec![0; columns.total_bytes()];
            for (t, tile) in tiles.iter().enumerate() {
                place_tile(&columns, tile, t, &mut by_columns);
            }
            let mut taken = vec![0xaa; layout.encoded_bytes()];
            for (t, tile) in tiles.iter().enumerate() {
                take_tile(&columns, &by_columns, t, &mut taken);
                assert_eq!(taken, *tile, "{layout:?} tile {t}");
                take_tile(&layout, &matrix, t, &mut taken);
                assert_eq!(taken, *tile, "{layout:?} tile {t}");
                let mut decoded = [0, 1].map(|_| vec![f32::NAN; layout.tile_floats()]);
                decode_tile(&layout, &matrix, t, &mut decoded[0]);
                decode_tile(&columns, &by_columns, t, &mut decoded[1]);
                assert_eq!(decoded[0], decoded[1], "{layout:?} tile {t}");
            }
            for row in 0..rows {
                let mut decoded = [0, 1].map(|_| vec![f32::NAN; cols]);
                decode_row(&layout, &matrix, row, &mut decoded[0]);
                decode_row(&columns, &by_columns, row, &mut decoded[1]);
                assert_eq!(decoded[0], decoded[1], "{layout:?} row {row}");
            }
            assert_eq!(table(&layout, &matrix), table(&columns, &by_columns));
        }
    }
}

/// SPEC.md's example: row 200, column 33.
#[test]
fn the_example_of_the_specification() {
    let layout = TileLayout::new(DType::Int4, 1024, 4096, 32).unwrap().by_columns().unwrap();
    let mut matrix = vec![0; layout.total_bytes()];
    let mut tile = vec![0; layout.encoded_bytes()];
    // Lane 8 of tile 12, column 33: byte 1 of the lane in vector 4, its lower half.
    tile[64 * 4 + 4 * 8 + 1] = 5;
    tile[layout.tile_bytes() + 32 + 16 + 8] = 7;
    place_tile(&layout, &tile, 12, &mut matrix);
    assert_eq!((matrix[21152], matrix[64 + 2048 + 17408 + 200]), (5 << 4, 7));
    assert_eq!(matrix[64..].iter().filter(|byte| **byte != 0).count(), 2);
    let columns = layout.columns().unwrap();
    assert_eq!((columns.column_bytes, columns.block_bytes), (512, 17408));
}

#[test]
fn other_formats_have_no_columns() {
    for dtype in DType::ALL {
        let layout = TileLayout::new(dtype, 3, 5, dtype.default_group()).unwrap();
        let has = matches!(dtype, DType::Int4 | DType::Int8);
        assert_eq!(layout.by_columns().is_some(), has, "{dtype}");
        assert_eq!(layout.in_tiles(), layout);
    }
    let most = TileLayout::new(DType::Int8, 1, usize::MAX / 256, 32).unwrap();
    assert_eq!(most.by_columns(), None);
}
