//! The operators to compare with: against what PEFT gave, and against their definitions in dense
//! f64.

use faer::Mat;
use kmerge_merge::{AssignmentRule, Dtype, Operator, Policy, SlotDtype, Weighting};

use crate::support::dense::{self, Updates, factors, updates};
use crate::support::files::{Adapter, Module, adapter, golden, golden_adapter, golden_json};
use crate::support::store::{Store, policy};

const ALL: [Operator; 5] = [
    Operator::Ties,
    Operator::DareLinear,
    Operator::DareTies,
    Operator::Opcm,
    Operator::Svd,
];
const SHAPES: [(&str, [usize; 2]); 3] = [
    ("0.self_attn.q_proj", [12, 12]),
    ("1.self_attn.k_proj", [4, 12]),
    ("2.mlp.up_proj", [20, 12]),
];

fn one_slot(operator: Operator) -> Policy {
    policy(1, AssignmentRule::KMerge, operator)
}

fn merged(policy: &Policy, members: &[Adapter]) -> Store {
    let mut store = Store::default();
    for member in members {
        store.arrive(policy, member).unwrap();
    }
    store
}

fn random(rank: usize, seed: u64, alpha: f64) -> Adapter {
    let modules = SHAPES.map(|(path, shape)| Module::random(path, shape, rank, seed));
    adapter(&modules, alpha, Dtype::F32)
}

/// A tensor of a golden file.
fn tensor(file: &safetensors::SafeTensors<'_>, name: &str) -> Mat<f64> {
    let tensor = file.tensor(name).unwrap();
    let values: Vec<f32> = tensor
        .data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    let columns = tensor.shape()[1];
    Mat::from_fn(tensor.shape()[0], columns, |row, column| {
        f64::from(values[row * columns + column])
    })
}

#[test]
fn goldens_of_peft_agree() {
    for case in golden_json("expected/baselines/cases.json")
        .as_array()
        .unwrap()
    {
        let operator: Operator = case["operator"].as_str().unwrap().parse().unwrap();
        let policy = Policy {
            weighting: case["weighting"].as_str().unwrap().parse().unwrap(),
            density: case["density"].as_f64().unwrap(),
            ..one_slot(operator)
        };
        let members: Vec<Adapter> = case["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| golden_adapter(name.as_str().unwrap()))
            .collect();
        let store = merged(&policy, &members);
        let file = case["file"].as_str().unwrap();
        let bytes = golden(&format!("expected/baselines/{file}"));
        let wanted = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let slot = &store.slots[&0];
        assert_eq!(wanted.len(), 2 * slot.layout.modules.len());
        for module in &slot.layout.modules {
            let (a, b) = factors(slot.view(), &module.path);
            let [wanted_a, wanted_b] = ["lora_A", "lora_B"]
                .map(|factor| tensor(&wanted, &format!("{}.{factor}.weight", module.path)));
            // PEFT's svd leaves all singular values in B: only the updates are comparable.
            let pairs = if operator == Operator::Svd {
                vec![(&b * &a, &wanted_b * &wanted_a)]
            } else {
                vec![(a, wanted_a), (b, wanted_b)]
            };
            for (found, wanted) in pairs {
                let difference = (&found - &wanted).norm_max();
                assert!(
                    difference <= 1e-5 * wanted.norm_max(),
                    "{file}, {}: {difference:e} of {}",
                    module.path,
                    wanted.norm_max()
                );
            }
        }
    }
}

#[test]
fn svd_is_exact_where_weights_are_the_same() {
    let members = [random(3, 1, 4.0), random(2, 2, 9.0), random(4, 3, 1.0)];
    for weighting in [Weighting::Running, Weighting::Released] {
        let [svd, exact] = [Operator::Svd, Operator::Exact].map(|operator| {
            let policy = Policy {
                weighting,
                ..one_slot(operator)
            };
            merged(&policy, &members).slots[&0].bytes.clone()
        });
        assert!(svd == exact, "{weighting}");
    }
}

#[test]
fn the_weights_are_those_of_the_weighting() {
    let members = [random(2, 1, 4.0), random(2, 2, 4.0)];
    for operator in ALL {
        let sparse = matches!(
            operator,
            Operator::Ties | Operator::DareLinear | Operator::DareTies
        );
        for (weighting, expected) in [
            (Weighting::Running, [2.0 / 3.0, 1.0 / 3.0]),
            (
                Weighting::Released,
                if sparse { [1.0; 2] } else { [0.5; 2] },
            ),
        ] {
            let policy = Policy {
                weighting,
                ..one_slot(operator)
            };
            let mut store = merged(&policy, &members);
            let (plan, _) = store.arrive(&policy, &random(2, 3, 4.0)).unwrap();
            for (found, expected) in plan.weights.into_iter().zip(expected) {
                assert!(
                    (found - expected).abs() < 1e-15,
                    "{operator}, {weighting}: {found}"
                );
            }
        }
    }
}

/// One step of OPCM by its definition: thin SVD of the slot, dense projection, dense truncation.
fn opcm(slot: &Mat<f64>, newcomer: &Mat<f64>, n: f64, rank: usize) -> Mat<f64> {
    let svd = slot.thin_svd().unwrap();
    let sigma: Vec<f64> = svd.S().column_vector().iter().copied().collect();
    let kept = sigma
        .iter()
        .take_while(|&&value| value > 1e-5 * sigma[0])
        .count();
    let (u, v) = (svd.U().subcols(0, kept), svd.V().subcols(0, kept));
    let total: f64 = sigma.iter().sum();
    let p = (1..=kept)
        .find(|&count| sigma[..count].iter().sum::<f64>() > 0.5 * total)
        .unwrap()
        - 1;
    let k = u.transpose() * newcomer * v;
    let masked = Mat::from_fn(kept, kept, |row, column| {
        let zeroed = row == column || (row < p && column < p);
        if zeroed { k[(row, column)] } else { 0.0 }
    });
    let clean = newcomer - u * masked * v.transpose();
    let sum = faer::Scale((n - 1.0).sqrt()) * slot + clean;
    let svd = sum.thin_svd().unwrap();
    let sigma = svd.S().column_vector();
    let scaled = Mat::from_fn(sum.nrows(), rank, |row, column| {
        svd.U()[(row, column)] * sigma[column]
    });
    let cut = scaled * svd.V().subcols(0, rank).transpose();
    let mean = ((n - 1.0) * slot.norm_l2() + newcomer.norm_l2()) / n;
    faer::Scale(mean / cut.norm_l2()) * cut
}

#[test]
fn opcm_is_its_definition_step_by_step() {
    let policy = one_slot(Operator::Opcm);
    let mut store = merged(&policy, &[random(4, 1, 4.0)]);
    let mut norms = vec![updates(random(4, 1, 4.0).view())];
    for (n, seed) in [(2.0, 2), (3.0, 3), (4.0, 4)] {
        let newcomer = random(4, seed, 8.0);
        let before = updates(store.slots[&0].view());
        store.arrive(&policy, &newcomer).unwrap();
        let after = updates(store.slots[&0].view());
        let own = updates(newcomer.view());
        norms.push(own.clone());
        for (path, found) in &after {
            let wanted = opcm(&before[path], &own[path], n, 4);
            let difference = (found - &wanted).norm_l2();
            assert!(
                difference <= 2e-5 * wanted.norm_l2(),
                "{path}, member {n}: {difference:e}"
            );
            // The norm that the slot has is the mean of its members'.
            let mean = norms.iter().map(|all| all[path].norm_l2()).sum::<f64>() / n;
            assert!((found.norm_l2() - mean).abs() <= 1e-5 * mean, "{path}");
        }
    }
}

#[test]
fn opcm_keeps_a_copy_out_and_a_stranger_whole() {
    let policy = one_slot(Operator::Opcm);
    let original = random(3, 1, 4.0);
    // Of a copy nothing is new: K is diagonal.
    let store = merged(&policy, &[original.clone(), original.clone()]);
    let (found, wanted) = (updates(store.slots[&0].view()), updates(original.view()));
    assert!(dense::relative_difference(&found, &wanted) < 1e-5);
    // Of one in other rows and columns nothing is taken away.
    let path = "0.self_attn.q_proj";
    let half = |first: bool, seed| {
        let mut module = Module::random(path, [12, 12], 2, seed);
        let outside = move |place: usize| (place < 6) != first;
        for (index, value) in module.a.iter_mut().enumerate() {
            *value *= f32::from(u8::from(!outside(index % 12)));
        }
        for (index, value) in module.b.iter_mut().enumerate() {
            *value *= f32::from(u8::from(!outside(index / 2)));
        }
        adapter(&[module], 4.0, Dtype::F32)
    };
    let members = [half(true, 1), half(false, 2)];
    let store = merged(&policy, &members);
    let path = format!("model.layers.{path}");
    let found = &updates(store.slots[&0].view())[&path];
    let sides = members.map(|member| updates(member.view())[&path].clone());
    let wanted = opcm(&sides[0], &sides[1], 2.0, 2);
    assert!((found - &wanted).norm_max() <= 1e-5 * wanted.norm_max());
    assert!(sides.iter().all(|side| dense::cosine(found, side) > 0.2));
}

/// The values of every factor, and the share of them that is zero.
fn zeros(store: &Store) -> f64 {
    let slot = &store.slots[&0];
    let (mut zero, mut all) = (0, 0);
    for module in &slot.layout.modules {
        let (a, b) = factors(slot.view(), &module.path);
        for factor in [a, b] {
            for row in 0..factor.nrows() {
                for column in 0..factor.ncols() {
                    zero += u32::from(factor[(row, column)] == 0.0);
                    all += 1_u32;
                }
            }
        }
    }
    f64::from(zero) / f64::from(all)
}

#[test]
fn a_module_of_one_side_alone_is_thinned_out_as_well() {
    let [(first, shape), (second, other), _] = SHAPES;
    let left = [Module::random(first, shape, 4, 1)];
    let right = [Module::random(second, other, 4, 2)];
    let members = [&left, &right].map(|modules| adapter(modules, 4.0, Dtype::F32));
    for operator in [Operator::Ties, Operator::DareLinear, Operator::DareTies] {
        let store = merged(&one_slot(operator), &members);
        let share = zeros(&store);
        assert!((0.35..0.65).contains(&share), "{operator}: {share}");
        assert_eq!(zeros(&merged(&one_slot(operator), &members[..1])), 0.0);
    }
    // Without thinning out, the one side is only weighed.
    let own = updates(members[1].view());
    for operator in ALL {
        let policy = Policy {
            density: 1.0,
            ..one_slot(operator)
        };
        let found: Updates = updates(merged(&policy, &members).slots[&0].view());
        let path = format!("model.layers.{second}");
        let wanted = faer::Scale(0.5) * &own[&path];
        let difference = (&found[&path] - &wanted).norm_max();
        assert!(difference <= 1e-6 * wanted.norm_max(), "{operator}");
    }
}

#[test]
fn ranks_and_types_mix_and_every_run_writes_the_same() {
    let members = [random(2, 1, 4.0), random(4, 2, 8.0), random(1, 3, 2.0)];
    for operator in ALL {
        for dtype in [SlotDtype::Widest, SlotDtype::F16, SlotDtype::Bf16] {
            let policy = Policy {
                dtype,
                ..one_slot(operator)
            };
            let [once, again] = [1, 3].map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                pool.install(|| merged(&policy, &members))
            });
            assert!(
                once.slots[&0].bytes == again.slots[&0].bytes,
                "{operator}, {dtype}"
            );
            let found = updates(once.slots[&0].view());
            assert_eq!(once.slots[&0].layout.rank(), 4);
            assert!(found.values().all(|update| update.norm_max() > 0.01));
        }
    }
}

#[test]
fn what_is_dropped_depends_on_the_generation() {
    let members = [random(4, 1, 4.0), random(4, 2, 4.0), random(4, 2, 4.0)];
    let policy = one_slot(Operator::DareLinear);
    let path = "model.layers.2.mlp.up_proj";
    let pattern = |members: &[Adapter]| {
        let store = merged(&policy, members);
        let (a, _) = factors(store.slots[&0].view(), path);
        Mat::from_fn(a.nrows(), a.ncols(), |row, column| {
            f64::from(u8::from(a[(row, column)] == 0.0))
        })
    };
    assert!((pattern(&members[..2]) - pattern(&members)).norm_max() > 0.0);
}

#[test]
fn values_that_are_not_finite_are_refused_by_every_operator() {
    let path = SHAPES[0].0;
    let plain = Module::random(path, [12, 12], 3, 1);
    for broken in [f32::NAN, f32::INFINITY] {
        let mut module = Module::random(path, [12, 12], 3, 2);
        module.b[5] = broken;
        let newcomer = adapter(&[module], 3.0, Dtype::F32);
        for operator in ALL {
            let policy = one_slot(operator);
            let fine = adapter(std::slice::from_ref(&plain), 3.0, Dtype::F32);
            let store = merged(&policy, std::slice::from_ref(&fine));
            let views = store.views();
            // A search would find it first; a plan for another newcomer does not.
            let made = kmerge_merge::plan(&policy, &views, fine.view(), &|_| ()).unwrap();
            let refused =
                kmerge_merge::execute(&made, &views, newcomer.view(), &mut Vec::new(), &|_| ());
            assert_eq!(
                refused.unwrap_err().reason(),
                "MERGE_NOT_FINITE",
                "{operator}, {broken}"
            );
        }
    }
}
